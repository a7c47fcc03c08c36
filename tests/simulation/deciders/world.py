"""A world is one seed: the log with compare-and-append, one or two sessions, and the real deciders.

Each handler is a generator that stops before every request it makes, so that chance chooses who goes on, who is killed
there, what comes twice, what was decided on a state that is not the last any more, and which answer is lost.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any

from schemas import lifecycle
from schemas.base import SessionId
from schemas.lifecycle import NOT_STARTED, Ended, IllegalEventError, WithTunnel
from schemas.session import (
    JobStatusChanged,
    Running,
    ServerListening,
    ServerReady,
    SessionEnded,
    StartAdmitted,
    TunnelLost,
)
from services._launching import reconciliation
from services._launching.comparison import Nudge, TaggedJob
from services._runtime.decider import Emit
from services._runtime.errors import PermanentError, TransientError
from services.accounts import app as accounts
from services.accounts import decide as accounts_decide
from services.cloud_launcher import app as cloud_launcher
from services.cloud_launcher import decide as cloud_decide
from services.hpc_launcher import app as hpc_launcher
from services.hpc_launcher import decide as hpc_decide
from services.tunneler import app as tunneler
from services.tunneler import decide as tunneler_decide
from tests.simulation.deciders.effects import Effects

ROUNDS = 10
"""How often everybody looks by himself until all must be in order."""

Strand = Generator[None, None, None]


@dataclass
class Service:
    """One part, as its app has it."""

    name: str
    decide: Callable[[Any, Any], Any]
    give_up: Callable[[Any, Any], Any]
    consumes: tuple[type, ...]
    perform: Callable[[Any], Generator[None, None, list[Any]]]


@dataclass(eq=False)
class Message:
    """Something on its way to a service: an event and how long the log was with it."""

    service: Service
    session: SessionId
    event: Any
    length: int


class World(Effects):
    """One seed's world."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.said: list[str] = []
        self.messages: list[Message] = []
        self.later: list[Message] = []
        self.strands: list[tuple[Message | None, Strand]] = []
        if self.cloud:
            launcher, consumes, act = cloud_launcher, cloud_decide.CONSUMES, self.on_cloud
        else:
            launcher, consumes, act = hpc_launcher, hpc_decide.CONSUMES, self.on_hpc  # type: ignore[assignment]
        self.launcher = Service("launcher", launcher.decide, launcher.give_up, consumes, act)
        self.accounts = Service(
            "accounts", accounts.decide, accounts_decide.give_up, accounts_decide.CONSUMES, self.at_accounts
        )
        self.tunneler = Service(
            "tunneler", tunneler.decide, tunneler.give_up, tunneler_decide.CONSUMES, self.at_tunneler
        )
        self.services = (self.accounts, self.launcher, self.tunneler)

    # --- the log and the handler, as the consumer has them ------------------------------------------------------------

    def append(self, session: SessionId, event: Any, length: int, *, decided: bool = False) -> tuple[int, bool]:
        """Compare and append; how long the log is then, and whether the event is in it."""
        held = self.held[session]
        if decided and length != len(held.states) - 1:
            return len(held.states) - 1, False
        try:
            after = lifecycle.evolve(held.state, event)
        except IllegalEventError:
            return len(held.states) - 1, False
        if isinstance(event, SessionEnded) and event.outcome != "lost" and self.live(session):
            self.wrong("ended-with-live-job", session)
        if isinstance(event, StartAdmitted) and not held.share:
            self.wrong("admitted-without-share", session)
        held.states.append(after)
        self.said.append(f"{session[-2:]} {type(event).__name__}")
        for service in self.services:
            if isinstance(event, service.consumes):
                self.messages.append(Message(service, session, event, len(held.states) - 1))
        return len(held.states) - 1, True

    def handle(self, service: Service, session: SessionId, trigger: Any, length: int) -> Strand:
        """What the consumer does with a message, on a state that is at least as new as that."""
        held = self.held[session]
        at = self.random.randrange(length, len(held.states)) if self.random.random() < 0.3 else len(held.states) - 1
        state = held.states[at]
        if state is NOT_STARTED:
            return
        steps = deque(service.decide(state, trigger))
        while steps:
            step = steps.popleft()
            yield
            if isinstance(step, Emit):
                at, appended = self.append(session, step.event, at, decided=True)
                state = held.states[at]
                steps = deque(service.decide(state, step.event if appended else trigger))
                continue
            try:
                facts = yield from service.perform(step.command)
            except PermanentError as error:
                steps = deque(service.give_up(state, error))
                continue
            for fact in facts:
                yield
                at, _ = self.append(session, fact, at)
                state = held.states[at]
                steps.extend(service.decide(state, fact))

    def record(self, service: Service | None, session: SessionId, event: Any) -> Strand:
        """A fact that no message caused, and what its service does then."""
        yield
        length, appended = self.append(session, event, 0)
        if appended and service is not None:
            yield from self.handle(service, session, event, length)

    # --- what may happen ----------------------------------------------------------------------------------------------

    def turn(self) -> bool:
        """Somebody goes on to his next request. False: there is nobody."""
        if not self.strands:
            return False
        number = self.random.randrange(len(self.strands))
        message, strand = self.strands[number]
        try:
            next(strand)
        except StopIteration:
            self.strands.remove((message, strand))
        except TransientError:
            self.strands.remove((message, strand))
            if message is not None:
                self.later.append(message)
        return True

    def deliver(self) -> None:
        """A message comes to its service; sometimes again later."""
        message = self.messages.pop(self.random.randrange(len(self.messages)))
        if not self.calm and self.random.random() < 0.05:
            self.messages.append(message)
        work = self.handle(message.service, message.session, message.event, message.length)
        self.strands.append((message, work))

    def happen(self) -> None:
        """Something does, by chance."""
        chance = self.random.random()
        session = self.random.choice(list(self.held))
        held = self.held[session]
        if self.messages and chance < 0.45:
            self.deliver()
        elif chance < 0.55 and held.state is NOT_STARTED:
            self.begin(None, session, held.story.requested())
        elif chance < 0.75:
            self._site_moves(session)
        elif chance < 0.80:
            self._hub_looks(session)
        elif chance < 0.83 and not isinstance(held.state, Ended) and held.state is not NOT_STARTED:
            self.begin(None, session, held.story.stop())
        elif chance < 0.87 and self.strands:
            self._kill()
        elif chance < 0.89 and isinstance(held.state, WithTunnel):
            self._lose_tunnel(session, held.state)
        elif chance < 0.92:
            self.look(session)
        elif chance < 0.93:
            self.late = True
        elif self.later:
            self.messages.append(self.later.pop())

    def begin(self, service: Service | None, session: SessionId, event: Any) -> None:
        """Somebody says something that no message caused."""
        self.strands.append((None, self.record(service, session, event)))

    def _kill(self) -> None:
        """A process is killed between two requests: its message comes again."""
        message, strand = self.strands.pop(self.random.randrange(len(self.strands)))
        strand.close()
        if message is not None:
            self.messages.append(message)

    def _lose_tunnel(self, session: SessionId, state: Any) -> None:
        lost = TunnelLost(**self.place(state.request), generation=state.tunnel.generation, reason="cut")
        self.begin(self.tunneler, session, lost)

    def _hub_looks(self, session: SessionId) -> None:
        if isinstance(state := self.held[session].state, lifecycle.Reachable):
            self.begin(None, session, ServerReady(**self.place(state.request)))

    def _site_moves(self, session: SessionId) -> None:
        """A job goes its way, and its launcher says what it sees, which may be old when it is said."""
        state = self.held[session].state
        for job in self.of(session):
            if job.phase != "live" or not isinstance(state, lifecycle.WithStatus):
                continue
            place = self.place(state.request)
            if not job.listens:
                job.listens = True
                self.begin(self.launcher, session, JobStatusChanged(**place, job_status=Running()))
            elif not self.calm and self.random.random() < 0.1:
                job.phase, job.listens = "over", False
                self.begin(self.launcher, session, SessionEnded(**place, outcome="failed", reason="it ended by itself"))
            elif isinstance(state, lifecycle.Submitted):
                self.begin(self.launcher, session, ServerListening(**place, host="127.30.0.11", port=9000))

    def look(self, session: SessionId) -> None:
        """Everybody looks by himself: overdue sessions, jobs that nobody wants, servers without a tunnel."""
        held = self.held[session]
        state = held.state
        match state:
            case lifecycle.Requested() | lifecycle.Rejected() | lifecycle.Withdrawn():
                self._nudge(self.accounts, session)
            case Ended() if held.share:
                self._nudge(self.accounts, session)
            case lifecycle.Listening() | lifecycle.Interrupted():
                self._nudge(self.tunneler, session)
            case _ if reconciliation.overdue(state):
                self._nudge(self.launcher, session)
        found = [TaggedJob(job.name, job.session) for job in self.of(session)]
        for step in reconciliation.compare({session: state}, found):
            if isinstance(step, Nudge):
                self._nudge(self.launcher, session)
            else:
                self.remove(step.job)
        for job in self.of(session):
            if job.phase == "over" and isinstance(state, lifecycle.WithStatus) and state.job == job.name:
                end = SessionEnded(**self.place(state.request), outcome="failed", reason="it ended by itself")
                self.begin(self.launcher, session, end)

    def _nudge(self, service: Service, session: SessionId) -> None:
        self.strands.append((None, self.handle(service, session, None, len(self.held[session].states) - 1)))

    # --- a whole seed -------------------------------------------------------------------------------------------------

    def run(self) -> list[str]:
        """Chances, then calm, then everybody stops; what was broken."""
        for _ in range(self.random.choice((30, 60, 120))):
            if self.random.random() < 0.35 or not self.turn():
                self.happen()
            if self.violations:
                return self.violations
        self.calm = True
        for stopping in (False, True):
            for _ in range(ROUNDS):
                self.messages += self.later
                self.later.clear()
                self._rest()
                if self.violations or (stopping and not self._left()):
                    return self.violations
                for session, held in self.held.items():
                    if stopping and not isinstance(held.state, Ended) and held.state is not NOT_STARTED:
                        self.begin(None, session, held.story.stop())
                    self._site_moves(session)
                    self._hub_looks(session)
                    self.look(session)
            if not stopping:
                self.violations += list(self._unserved())
        self.violations += list(self._left())
        return self.violations

    def _rest(self) -> None:
        for _ in range(5000):
            if not self.turn():
                if not self.messages:
                    return
                self.deliver()
        self.violations.append("it never comes to rest")

    def _unserved(self) -> Iterator[str]:
        for session, held in self.held.items():
            if not isinstance(held.state, Ended | lifecycle.Ready) and held.state is not NOT_STARTED:
                yield f"stuck: {session[-2:]} rests in {type(held.state).__name__}"

    def _left(self) -> list[str]:
        left = [f"orphaned: {job.name} of {job.session[-2:]}" for job in self.jobs]
        for session, held in self.held.items():
            if held.state is NOT_STARTED:
                continue
            if not isinstance(held.state, Ended):
                left.append(f"stuck: {session[-2:]} rests in {type(held.state).__name__}")
            if held.share:
                left.append(f"leaked: share of {session[-2:]}")
        return left
