"""What accounts do in the life of a session: admit at the beginning, end what never ran, release at the end. Pure."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from schemas.acts import DeadLetterRetried, EndRequested, SessionAct
from schemas.lifecycle import (
    Admitted,
    Cancelling,
    Created,
    Ended,
    Interrupted,
    Listening,
    NotStarted,
    Reachable,
    Ready,
    Rejected,
    Requested,
    SessionState,
    Stopping,
    Submitted,
    Waiting,
    Withdrawn,
)
from schemas.session import (
    AnySessionEvent,
    SessionEnded,
    SessionEvent,
    StartAdmitted,
    StartRejected,
    StartRequested,
    StartWaiting,
    StopRequested,
    Use,
)
from services._runtime.decider import Emit, Perform
from services._runtime.errors import PermanentError

CONSUMES: tuple[type[SessionEvent], ...] = (StartRequested, StartRejected, StopRequested, SessionEnded)


class Admit(msgspec.Struct, frozen=True):
    """Judge a start and reserve its quotas. `place` is where it stands in the line; None: it does not wait (yet)."""

    request: StartRequested
    place: int | None = None


class Release(msgspec.Struct, frozen=True):
    """Give back whatever the session holds of any quota, and count what it used."""

    request: StartRequested
    use: Use


Command = Admit | Release

FACTS: Mapping[type[Command], tuple[type[SessionEvent], ...]] = {
    Admit: (StartAdmitted, StartRejected, StartWaiting),
    Release: (),
}
"""What comes of each command where nothing is in its way. A replay tells facts from decisions by it."""


def decide(state: SessionState, event: AnySessionEvent | None) -> list[Emit | Perform[Command]]:
    """The steps for a state, whatever event led there; who waits is judged again only when it is his turn: a nudge."""
    match state:
        case Requested(request=request):
            return [Perform(Admit(request))]
        case Waiting(request=request, place_in_queue=place):
            return [Perform(Admit(request, place))] if event is None else []
        case Rejected(request=request, rejection=rejection):
            end = _ended(request, "rejected", rejection.message, rejection.remedy)
            return [Emit(msgspec.structs.replace(end, step_up=rejection.step_up))]
        case Withdrawn(request=request, stop=stop):
            return [Emit(_ended(request, "stopped", f"Stopped by {stop.by} before it began: {stop.reason}"))]
        case Ended(request=request, end=end):
            return [Perform(Release(request, end.use))]
        case (
            NotStarted()
            | Admitted()
            | Cancelling()
            | Created()
            | Submitted()
            | Listening()
            | Reachable()
            | Ready()
            | Interrupted()
            | Stopping()
        ):
            return []


def give_up(state: SessionState, error: PermanentError) -> list[Emit | Perform[Command]]:
    """What is said when a start can never be judged."""
    if isinstance(state, Requested | Waiting):
        request = state.request
        return [
            Emit(
                StartRejected(
                    hub=request.hub,
                    system=request.system,
                    session=request.session,
                    code=error.code,
                    message=error.reason,
                    remedy=error.remedy,
                )
            )
        ]
    return []


def obey(state: SessionState, act: SessionAct) -> list[Emit | Perform[Command]]:
    """What an operator asks for: the end of what no launcher knows, or to look at a session anew."""
    match act:
        case EndRequested() if isinstance(state, Requested | Waiting | Rejected | Withdrawn):
            end = _ended(state.request, "stopped", f"Ended by {act.by}: {act.reason}")
            return [Emit(msgspec.structs.replace(end, cause=act.id))]
        case DeadLetterRetried():
            return decide(state, None)
        case _:
            return []


def _ended(request: StartRequested, outcome: str, reason: str, remedy: str = "") -> SessionEnded:
    return SessionEnded(
        hub=request.hub,
        system=request.system,
        session=request.session,
        outcome="rejected" if outcome == "rejected" else "stopped",
        reason=reason[:1024],
        remedy=remedy[:1024],
    )
