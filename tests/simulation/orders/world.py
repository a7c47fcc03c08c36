"""The world of one order: the simulation's broker, site and tunnels, real services, and what may happen next.

Omits what the simulation has: the hub bridge, leases, intervals, and clocks that differ. Who may look after something
now is open: a lease is believed by two for a moment at worst, and here by chance.
"""

from __future__ import annotations

import contextlib
import logging
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import cache
from random import Random
from typing import Any

import msgspec
import structlog

from schemas.base import Message, SessionId, UserName
from schemas.lifecycle import NOT_STARTED, Ended, Interrupted, Listening, Reachable, WithStatus, WithTunnel
from schemas.secrets import HmacProof, JobSecrets
from schemas.session import HpcPlace, Resources, ServerReady, SessionEvent, StartRequested, StopRequested
from services._runtime.errors import TransientError
from services._runtime.log import Recorded, Stream
from services.accounts import decide as accounts_decide
from services.accounts.settings import Quota, Waiting
from services.hpc_launcher import decide as launcher_decide
from services.hpc_launcher.observe import Observer, Watched
from services.tunneler import decide as tunneler_decide
from services.tunneler.ports import Address
from tests.simulation import parts
from tests.simulation.broker import Broker, SimBucket, Stored
from tests.simulation.invariants import Invariants
from tests.simulation.orders.chances import SERVICES, Chances, chances
from tests.simulation.orders.process import USERS, Delivery, Process
from tests.simulation.orders.turns import Turns
from tests.simulation.site import Job, Site, SitePort
from tests.simulation.tunnels import Tunnels

REDELIVERED_SECONDS = 31.0
"""Longer than any interval after which a service looks again by itself."""

CONSUMED: dict[str, tuple[type[SessionEvent], ...]] = {
    "accounts": accounts_decide.CONSUMES,
    "launcher": launcher_decide.CONSUMES,
    "tunneler": tunneler_decide.CONSUMES,
}


class World:
    """One run of one seed."""

    users: tuple[str, ...] = USERS

    def __init__(self, seed: int, *, trace: bool = False) -> None:
        self.random = Random(seed)
        self.chances = self.scenario = self.draw()
        self.trace: list[str] | None = [] if trace else None
        self.violations: list[tuple[str, str]] = []
        self.calm = False
        self.turns = self.loop = Turns(self.random)
        self.system = parts.system()
        self.quotas = self.limits()
        self.routes: dict[tuple[str, str], tuple[SessionId, Address]] = {}
        self.pending: list[tuple[str, Stored, int]] = []
        self.in_hand: list[Delivery] = []
        self.silent_for = 0
        self.broker = Broker(self)  # type: ignore[arg-type]
        self.site = Site(self, 0.0, 0.0)  # type: ignore[arg-type]
        self.tunnels = Tunnels(self)  # type: ignore[arg-type]
        self.invariants = Invariants(self)  # type: ignore[arg-type]
        boots: dict[str, Callable[[Any], Any]] = {
            "accounts": parts.accounts(list(self.users), self.quotas, self.waiting()),
            "launcher": parts.launcher,
            "tunneler": parts.tunneler,
        }
        self.replicas = {
            service: [Process(self, f"{service}-{n + 1}", boot) for n in range(self.chances.replicas[service])]
            for service, boot in boots.items()
        }
        self.hub = Process(self, "hub", None)
        self.starting = [SessionId(f"{n + 1:026d}") for n in range(self.chances.sessions)]
        self._started: list[SessionId] = []

    # --- what a seed decides -----------------------------------------------------------------------------------------

    def draw(self) -> Chances:
        return chances(self.random)

    def limits(self) -> list[Quota]:
        limit = self.chances.quota_limit
        when_full = self.chances.when_full
        return [Quota(system=self.system.name, limit=limit, per_user=limit, when_full=when_full)]

    def waiting(self) -> Waiting:
        return Waiting()

    # --- what is seen, as the simulation's parts tell it -------------------------------------------------------------

    def say(self, who: str, what: str) -> None:
        if self.trace is not None:
            self.trace.append(f"{self.turns.steps:5}  {who:<11} {what}")

    def violated(self, kind: str, what: str) -> None:
        self.say("VIOLATION", f"{kind}: {what}")
        self.violations.append((kind, what))

    def appended(self, stream: Stream, recorded: Recorded) -> None:
        event: Message = recorded.message
        if self.trace is not None:
            self.say("log", f"#{recorded.sequence} {type(event).__name__} ({event.source})")
        self.invariants.appended(stream, recorded)
        if isinstance(event, SessionEvent):
            stored = self.broker.streams["SESSIONS"][-1]
            self.pending += [(service, stored, 1) for service in self._services_for(event)]
            self._route(event.session)

    def _services_for(self, event: SessionEvent) -> list[str]:
        return [name for name, types in CONSUMED.items() if isinstance(event, types) and self.chances.replicas[name]]

    def _route(self, session: SessionId) -> None:
        """The hub moves its route with the tunnel, and takes it away with the session."""
        state = self.invariants.states.get(session, NOT_STARTED)
        if isinstance(state, WithTunnel):
            server = (state.request.user, state.request.server_name)
            self.routes[server] = (session, Address(state.tunnel.host, state.tunnel.port))
        elif isinstance(state, Ended):
            self.routes.pop((state.request.user, state.request.server_name), None)

    def buried(self, subject: str, reasons: dict[str, str]) -> None:
        self.broker.dead.append((subject, reasons))
        if reasons.get("Farlab-Reason", "").startswith("failed "):
            self.violated("defect", f"dead letter: {reasons['Farlab-Reason']}")

    def started(self, job: Job) -> None:
        self.invariants.started(job)

    def clock(self, process: Process) -> datetime:
        del process
        return datetime.fromtimestamp(parts.EPOCH + self.turns.now, UTC)

    def latency(self, place: str) -> float:
        del place
        return 0.0

    def loses(self) -> bool:
        """Whether this message is lost."""
        return not self.calm and self.chances.loss > 0 and self.random.random() < self.chances.loss

    def site_is_silent(self) -> bool:
        """Whether the site misses this request, as it does several in a row."""
        if self.calm or not self.silent_for:
            return False
        self.silent_for -= 1
        return True

    # --- what may happen ---------------------------------------------------------------------------------------------

    def happen(self) -> None:
        """Something does, by chance."""
        chance = self.random.random()
        if self._started and self.random.random() < self.chances.stops:
            self._stop(self.random.choice(self._started))
        elif self.starting and chance < 0.1:
            self.start_next()
        elif chance < 0.35:
            self.deliver()
        elif chance < 0.55:
            self._any().follow()
        elif chance < 0.70:
            self.turns.ring()
        elif chance < 0.85:
            self.look(self.random.choice(self.replicas["launcher"]))
        elif chance < 0.90:
            self.tend(self.random.choice(self.replicas["tunneler"]))
        elif chance < 0.93:
            self._hub_looks()
        elif chance < 0.95 and self.in_hand:
            self.pending.append(self.random.choice(self.in_hand).again)
        elif chance < 0.975:
            self.turns.now += self.random.choice((1.0, REDELIVERED_SECONDS))
            self._reconcile(self.random.choice(self.replicas["launcher"]))
        elif chance < 0.985 and self.chances.kills:
            self.chances.kills -= 1
            self.kill(self._any())
        elif jobs := [job for job in self.site.there() if job.live]:
            self._trouble(self.random.choice(jobs))

    def _trouble(self, job: Job) -> None:
        """The site ends a job, denies it once, or is silent for a while."""
        chances = self.chances
        if chances.site_deaths and job.phase == "running":
            chances.site_deaths -= 1
            self.say("site", f"ends {job.name}")
            self.site.end(job)
        elif chances.denials:
            chances.denials -= 1
            self.say("site", f"will deny {job.name} once")
            self.site.denies.add(job.name)
        elif chances.silences:
            self.say("site", f"is silent for {chances.silences} requests")
            self.silent_for, chances.silences = chances.silences, 0

    def _any(self) -> Process:
        return self.random.choice(self.replicas[self.random.choice(SERVICES)])

    def start_next(self) -> None:
        """A user starts a server, one that stopped only when its last session is over, as JupyterHub does."""
        over = all(isinstance(self.invariants.states.get(each), Ended) for each in self._started)
        if self.starting and (over or not self.chances.one_server):
            self._start(self.starting.pop(), USERS[0 if self.chances.one_server else len(self._started) % 2])

    def _start(self, session: SessionId, user: str) -> None:
        self._started.append(session)
        vault = self.broker.buckets["vault"]
        key = session[-1] * 64
        for recipient, secret in (
            ("hpc-launcher", JobSecrets(environment={}, proof_key=key)),
            ("tunneler", HmacProof(key=key)),
        ):
            vault.write(f"{session}.{recipient}", f"{recipient}|{msgspec.json.encode(secret).decode()}".encode(), None)
        request = StartRequested(
            hub=parts.configuration().shared.installation.hub,
            system=self.system.name,
            session=session,
            user=UserName(user),
            server_name="",
            place=HpcPlace(account=f"{user}1", project="ztrain", partition="batch"),
            resources=Resources(runtime_seconds=3600),
            base_url=f"/user/{user}/",
            deadline=self.clock(self.hub) + timedelta(seconds=self.chances.deadline_seconds),
        )
        self._record(request)

    def _stop(self, session: SessionId) -> None:
        state = self.invariants.states.get(session, NOT_STARTED)
        if state is not NOT_STARTED and not isinstance(state, Ended):
            request = state.request
            self._record(
                StopRequested(hub=request.hub, system=request.system, session=session, by=request.user, reason="enough")
            )

    def _record(self, event: SessionEvent) -> None:
        async def record() -> None:
            while True:
                try:
                    await self.hub.consumer.record(event)
                except TransientError:
                    continue
                return

        self.turns.begin(self.hub.life, record())

    def deliver(self) -> None:
        """A message that waits comes to one of its service's replicas."""
        if not self.pending:
            return
        service, stored, attempt = self.pending.pop(int(self.random.random() * len(self.pending)))
        process = self.random.choice(self.replicas[service])
        delivery = Delivery(self, service, process, stored, attempt)
        self.in_hand.append(delivery)
        self.turns.begin(process.life, process.app.sessions._deliveries.deliver(delivery))

    def look(self, process: Process) -> None:
        """A launcher looks at its jobs."""
        for session, placed in process.view.live():
            if isinstance(placed.state, WithStatus) and session not in process.looking:
                process.looking.add(session)
                self.turns.begin(process.life, self._look(process, session, placed.state))

    async def _look(self, process: Process, session: SessionId, state: WithStatus) -> None:
        observer = Observer(
            system=self.system,
            site=SitePort(process),  # type: ignore[arg-type]
            chronicle=process.chronicle,
            record=process.consumer.record,
            now=lambda: self.clock(process),
            clock=self.turns.time,
        )
        watched = process.watched.setdefault(session, Watched(changed_at=self.turns.now))
        await _quietly(observer.look(state, watched))
        process.looking.discard(session)

    def tend(self, process: Process) -> None:
        """A tunneler looks at its tunnels, at those of a replica that is gone, and at what waits for one."""
        names = {each.name for each in self.replicas["tunneler"]}
        for session, placed in process.view.live():
            state = placed.state
            if isinstance(state, WithTunnel) and state.tunnel.replica in (
                process.name,
                *({state.tunnel.replica} - names),
            ):
                self.turns.begin(process.life, process.app._upkeep._checked(session, state))
            elif isinstance(state, Listening | Interrupted):
                self.turns.begin(process.life, process.app._upkeep._nudged(session))

    def _reconcile(self, process: Process) -> None:
        for reconciler in process.app.reconcilers.values():
            self.turns.begin(process.life, _quietly(reconciler.reconcile()))

    def _account(self, process: Process) -> None:
        self.turns.begin(process.life, _quietly(process.app.reconcile()))

    def _hub_looks(self) -> None:
        """JupyterHub reaches servers that can be, and clears away after sessions that were never admitted."""
        while self.hub.follow():
            pass
        for _, placed in self.hub.view.known():
            state = placed.state
            if isinstance(state, Reachable):
                request = state.request
                self._record(ServerReady(hub=request.hub, system=request.system, session=request.session))
            elif isinstance(state, Ended) and state.admission is None:
                vault = parts.PlainVault(SimBucket(self.hub, "vault"), parts.Path(), "hub-bridge")  # type: ignore[arg-type]
                self.turns.begin(self.hub.life, _quietly(vault.forget(state.request.session)))

    def kill(self, process: Process) -> None:
        """SIGKILL and a new start; what it had in hand comes again."""
        self.say(process.name, "KILLED")
        process.life.dead = True
        self.turns.bury(process.life)
        self.tunnels.died(process.life)
        for delivery in [each for each in self.in_hand if each.life is process.life]:
            self.in_hand.remove(delivery)
            self.pending.append(delivery.again)
        process.start()
        if process.name.startswith("tunneler"):
            for session, placed in process.view.live():
                state = placed.state
                if isinstance(state, WithTunnel) and state.tunnel.replica == process.name:
                    self.turns.begin(process.life, process.app._restore(session, state.request, state))

    # --- the end -----------------------------------------------------------------------------------------------------

    def cease(self) -> None:
        """Nothing goes wrong any more, and who wanted to start does."""
        self.calm = True
        self.start_next()

    def answer(self) -> None:
        """Everything that was said reaches everybody, to its end."""
        self.pending += [delivery.again for delivery in self.in_hand]
        self.in_hand.clear()
        while self.pending:
            self.deliver()
        self.rest()
        for replicas in self.replicas.values():
            for process in replicas:
                while process.follow():
                    pass
        self._hub_looks()
        self.rest()

    def everybody_looks(self) -> None:
        """One round of everything that services do by themselves, to its end."""
        self.turns.now += REDELIVERED_SECONDS
        for process in self.replicas["accounts"]:
            self._account(process)
        for process in self.replicas["launcher"]:
            self.look(process)
            self._reconcile(process)
        for process in self.replicas["tunneler"]:
            self.tend(process)
        self.rest()

    def rest(self) -> None:
        """Until nobody has anything to do."""
        for _ in range(20_000):
            if not self.turns.turn() and not self.turns.ring():
                return
        self.violated("defect", "it never comes to rest")

    def unsettled(self) -> list[tuple[str, str]]:
        """What keeps everything from being in order."""
        return self.invariants.unsettled()

    def outcomes(self) -> dict[str, int]:
        """How many sessions ended how."""
        ends = (state.end.outcome for state in self.invariants.states.values() if isinstance(state, Ended))
        return dict(Counter(ends))

    def stop_all(self) -> None:
        """Everybody stops."""
        for session in self._started:
            self._stop(session)


async def _quietly(work: Any) -> None:
    with contextlib.suppress(TransientError):
        await work


@cache
def quiet() -> None:
    """The services say nothing: what a defect leaves behind is seen in the world."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
