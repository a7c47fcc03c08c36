"""What must hold at every step, and what must hold once the faults have ceased. Changes nothing.

Each violation has a kind, by which a failing seed is shrunk and counted.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from datetime import datetime
from typing import TYPE_CHECKING

from schemas.base import SessionId, UserName
from schemas.lifecycle import (
    NOT_STARTED,
    Admitted,
    Ended,
    IllegalEventError,
    Ready,
    SessionState,
    Stopping,
    Waiting,
    WithJob,
    evolve,
)
from schemas.quota import QuotaUpdated, Released, Reserved
from schemas.session import SessionEnded, SessionEvent, StartAdmitted, StartRequested, TunnelReady
from services._runtime.log import Recorded, Stream
from services._runtime.systems import cores_of
from services._runtime.view import as_session_event
from services.accounts.quotas import QuotaKey, claims
from services.tunneler.ports import Address
from tests.simulation.site import Job

if TYPE_CHECKING:
    from tests.simulation.world import World


class Invariants:
    """Looks at everything the world tells it."""

    def __init__(self, world: World) -> None:
        self.states: dict[SessionId, SessionState] = {}
        self._world = world
        self._shares: dict[QuotaKey, dict[SessionId, tuple[UserName, int]]] = defaultdict(dict)
        self.consumed: dict[QuotaKey, Counter[UserName]] = defaultdict(Counter)
        self._periods: dict[QuotaKey, datetime | None] = {}
        self._limits: dict[QuotaKey, tuple[int | None, int | None]] = {}

    # --- at every step ---------------------------------------------------------------------------------------------

    def appended(self, stream: Stream, recorded: Recorded) -> None:
        """Something came into the log."""
        message = recorded.message
        if isinstance(message, QuotaUpdated):
            self._quota(message)
        elif isinstance(message, SessionEvent):
            self._session(message)

    def _session(self, event: SessionEvent) -> None:
        before = self.states.get(event.session, NOT_STARTED)
        try:
            self.states[event.session] = evolve(before, as_session_event(event))
        except IllegalEventError as error:
            kind = "doubled-end" if isinstance(event, SessionEnded) else "illegal-event"
            self._world.violated(kind, f"{event.session[-4:]}: {error}")
            return
        match event:
            case StartAdmitted():
                self._admitted(event.session)
            case SessionEnded(outcome=outcome) if outcome != "lost":
                for job in self._jobs_of(event.session):
                    if job.live and job.phase != "ending":
                        self._world.violated("ended-with-live-job", f"{outcome}, and {job.name} is {job.phase}")
            case TunnelReady(host=host, port=port):
                self._reaches_its_own(event.session, Address(host, port), "tunnel-ready")
            case _:
                pass

    def _admitted(self, session: SessionId) -> None:
        state, world = self.states[session], self._world
        assert isinstance(state, Admitted)
        for quota, _ in claims(state.request, world.quotas, self._cores_of):
            if session not in self._shares[QuotaKey(quota.vo, quota.system, quota.resource)]:
                world.violated("admitted-without-share", f"{session[-4:]} holds no share of {quota.resource}")

    def _quota(self, event: QuotaUpdated) -> None:
        key = QuotaKey(event.vo, event.system, event.resource)
        held, before = self._shares[key], self._periods.get(key)
        self._limits[key] = (event.limit, event.per_user)
        if event.period_begins is not None and (before is None or event.period_begins > before):
            self._periods[key] = event.period_begins
            self.consumed[key].clear()
        match event.change:
            case Reserved(session=session, user=user, amount=amount):
                if session in held:
                    self._world.violated("doubled-share", f"{session[-4:]} reserves twice")
                held[session] = (user, amount)
                own = sum(held_ for who, held_ in held.values() if who == user) + self.consumed[key][user]
                if event.limit is not None and event.used > event.limit:
                    self._world.violated("quota-exceeded", f"{event.used} of {event.limit}")
                if event.per_user is not None and own > event.per_user:
                    self._world.violated("quota-exceeded", f"{user} uses {own} of {event.per_user}")
            case Released(session=session, user=user, consumed=consumed):
                if session not in held:
                    self._world.violated("doubled-release", f"{session[-4:]} releases what it does not hold")
                held.pop(session, None)
                self.consumed[key][user] += consumed
                state = self.states.get(session)
                if isinstance(state, WithJob | Admitted):
                    self._world.violated("released-too-early", f"{session[-4:]} is {type(state).__name__}")
            case _:
                pass
        if event.used != sum(amount for _, amount in held.values()) + self.consumed[key].total():
            self._world.violated("wrong-use", f"{event.used} said, {held} held and {self.consumed[key]} consumed")

    def started(self, job: Job) -> None:
        """A job was handed to the scheduler."""
        state = self.states.get(job.session or SessionId(""), NOT_STARTED)
        if not isinstance(state, WithJob | Ended) or state.job != job.name:
            self._world.violated("started-unannounced", f"{job.name} starts, and the log has not its creation")
            return
        server = (state.request.user, state.request.server_name)
        for other in self._world.site.jobs.values():
            if other is job or not other.live:
                continue
            if other.session == job.session:
                self._world.violated("doubled-job", f"{job.name} and {other.name} of one session")
            theirs = self.states.get(other.session or SessionId(""), NOT_STARTED)
            if isinstance(theirs, Ended) and theirs.end.outcome == "lost":
                continue  # ended by the stated bound, without the site's word: what UNICORE cannot promise
            if isinstance(theirs, WithJob | Ended) and (theirs.request.user, theirs.request.server_name) == server:
                self._world.violated("doubled-server", f"{job.name} and {other.name} of {server}")

    def removed(self, job: Job) -> None:
        """Somebody asks for a job's end."""
        state = self.states.get(job.session or SessionId(""), NOT_STARTED)
        if isinstance(state, WithJob) and not isinstance(state, Stopping) and state.job == job.name:
            self._world.violated("wanted-job-removed", f"{job.name}, whose session is {type(state).__name__}")

    def routed(self) -> None:
        """Everybody in, at once: nobody may come out at another's server."""
        for server, (session, address) in self._world.routes.items():
            self._reaches_its_own(session, address, f"the route of {server}")

    def _reaches_its_own(self, session: SessionId, address: Address, what: str) -> None:
        job = self._world.tunnels.leads_to(address)
        if job is not None and job.session != session:
            self._world.violated("crossed-wire", f"{what} leads to {job.session[-4:] if job.session else job.name}")

    def _jobs_of(self, session: SessionId) -> list[Job]:
        return [job for job in self._world.site.jobs.values() if job.session == session]

    # --- once the faults have ceased -------------------------------------------------------------------------------

    def unsettled(self) -> list[tuple[str, str]]:
        """What keeps the installation from being in order: every session over, or ready and reached."""
        found: list[tuple[str, str]] = []
        for session, state in self.states.items():
            if isinstance(state, Ended) or (isinstance(state, Waiting) and self._somebody_is_kept()):
                continue
            if not isinstance(state, Ready):
                found.append(("stuck", f"{session[-4:]} rests in {type(state).__name__}"))
                continue
            route = self._world.routes.get((state.request.user, state.request.server_name))
            if route is None or route[0] != session:
                found.append(("unreachable", f"{session[-4:]} is ready and its user has no route"))
            elif (job := self._world.tunnels.leads_to(route[1])) is None or job.session != session:
                found.append(("unreachable", f"{session[-4:]} is ready and its route leads nowhere"))
        return found

    def _somebody_is_kept(self) -> bool:
        """Whether a limit keeps a start that waits, and with it those behind it."""
        return any(self._is_kept(state.request) for state in self.states.values() if isinstance(state, Waiting))

    def _is_kept(self, request: StartRequested) -> bool:
        for quota, amount in claims(request, self._world.quotas, self._cores_of):
            key = QuotaKey(quota.vo, quota.system, quota.resource)
            limit, per_user = self._limits.get(key, (quota.limit, quota.per_user))
            own = sum(held for who, held in self._shares[key].values() if who == request.user)
            used = sum(held for _, held in self._shares[key].values()) + self.consumed[key].total()
            if limit is not None and used + amount > limit:
                return True
            if per_user is not None and own + self.consumed[key][request.user] + amount > per_user:
                return True
        return False

    def _cores_of(self, request: StartRequested) -> int:
        return cores_of(self._world.system, request.place, request.resources)

    def left_over(self) -> list[tuple[str, str]]:
        """What is there although every server was stopped."""
        world = self._world
        found = [
            ("stuck", f"{session[-4:]} rests in {type(state).__name__}")
            for session, state in self.states.items()
            if not isinstance(state, Ended)
        ]
        found += [("orphaned", f"{job.name} ({job.phase}) of {str(job.session)[-4:]}") for job in world.site.there()]
        found += [
            ("orphaned", f"{job.name} runs on after its deletion") for job in world.site.jobs.values() if job.live
        ]
        found += [
            ("leaked", f"listener {port} of {each.session[-4:]}") for port, each in world.tunnels.listeners.items()
        ]
        found += [
            ("leaked", f"share of {session[-4:]} in {name[2]}")
            for name, held in self._shares.items()
            for session in held
        ]
        found += [("leaked", f"secret {key[22:]}") for key in world.broker.buckets["vault"].values]
        found += [("leaked", f"route of {server}") for server in world.routes]
        return found
