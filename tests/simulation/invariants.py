"""What must hold at every step, and what must hold once the faults have ceased. Changes nothing.

Each violation has a kind, by which a failing seed is shrunk and counted.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from schemas.base import SessionId
from schemas.lifecycle import NOT_STARTED, Ended, IllegalEventError, Ready, SessionState, Stopping, WithJob, evolve
from schemas.quota import QuotaUpdated, Released, Reserved
from schemas.session import SessionEnded, SessionEvent, StartAdmitted, TunnelReady
from services._runtime.log import Recorded, Stream
from services._runtime.view import as_session_event
from services.tunneler.ports import Address
from tests.simulation.site import Job

if TYPE_CHECKING:
    from tests.simulation.world import World


class Invariants:
    """Looks at everything the world tells it."""

    def __init__(self, world: World) -> None:
        self.states: dict[SessionId, SessionState] = {}
        self._world = world
        self._shares: dict[tuple[str, str, str], dict[SessionId, int]] = defaultdict(dict)

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
                if not all(
                    event.session in self._shares[each.vo, each.system, each.resource] for each in self._world.quotas
                ):
                    self._world.violated("admitted-without-share", f"{event.session[-4:]} holds no share")
            case SessionEnded(outcome=outcome) if outcome != "lost":
                for job in self._jobs_of(event.session):
                    if job.live and job.phase != "ending":
                        self._world.violated("ended-with-live-job", f"{outcome}, and {job.name} is {job.phase}")
            case TunnelReady(host=host, port=port):
                self._reaches_its_own(event.session, Address(host, port), "tunnel-ready")
            case _:
                pass

    def _quota(self, event: QuotaUpdated) -> None:
        held = self._shares[event.vo, event.system, event.resource]
        match event.change:
            case Reserved(session=session, amount=amount):
                if session in held:
                    self._world.violated("doubled-share", f"{session[-4:]} reserves twice")
                held[session] = amount
            case Released(session=session):
                if session not in held:
                    self._world.violated("doubled-release", f"{session[-4:]} releases what it does not hold")
                held.pop(session, None)
                state = self.states.get(session)
                if isinstance(state, WithJob):
                    self._world.violated("released-too-early", f"{session[-4:]} is {type(state).__name__}")
            case _:
                pass
        if event.used != sum(held.values()):
            self._world.violated("wrong-use", f"{event.used} said, {sum(held.values())} held")
        if event.limit is not None and event.used > event.limit:
            self._world.violated("quota-exceeded", f"{event.used} of {event.limit}")

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
            if isinstance(state, Ended):
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
