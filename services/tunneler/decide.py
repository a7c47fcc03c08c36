"""What the tunneler does in the life of a session: lead to a server that listens. Pure."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

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
    ServerListening,
    SessionEvent,
    StartAdmitted,
    StartRequested,
    StopRequested,
    TunnelLost,
    TunnelReady,
)
from services._runtime.decider import Emit, Perform
from services._runtime.errors import PermanentError

CONSUMES: tuple[type[SessionEvent], ...] = (ServerListening, TunnelLost)


class OpenTunnel(msgspec.Struct, frozen=True):
    """Lead to a session's server, prove that it is the one, and say where; `for_user` when somebody was in already."""

    request: StartRequested
    admission: StartAdmitted
    job: str
    server: ServerListening
    generation: int
    for_user: bool


class CloseTunnel(msgspec.Struct, frozen=True):
    """Close this replica's way to a session's server."""

    request: StartRequested


Command = OpenTunnel | CloseTunnel

FACTS: Mapping[type[Command], tuple[type[SessionEvent], ...]] = {OpenTunnel: (TunnelReady,), CloseTunnel: ()}
"""What comes of each command where the world does not refuse it. A replay tells facts from decisions by it."""


def decide(state: SessionState, event: AnySessionEvent | None) -> list[Emit | Perform[Command]]:
    """The steps for a state. A tunnel that the state refused was built while another replica was faster."""
    match state:
        case Listening() | Interrupted():
            return [
                Perform(
                    OpenTunnel(
                        state.request,
                        state.admission,
                        state.job,
                        state.server,
                        state.generation + 1,
                        for_user=isinstance(state, Interrupted),
                    )
                )
            ]
        case Reachable(request=request, tunnel=tunnel) | Ready(request=request, tunnel=tunnel):
            lost_the_race = isinstance(event, TunnelReady) and event.replica != tunnel.replica
            return [Perform(CloseTunnel(request))] if lost_the_race else []
        case Stopping(request=request) | Ended(request=request):
            return [Perform(CloseTunnel(request))] if isinstance(event, TunnelReady) else []
        case (
            NotStarted()
            | Requested()
            | Waiting()
            | Rejected()
            | Withdrawn()
            | Admitted()
            | Cancelling()
            | Created()
            | Submitted()
        ):
            return []


def give_up(state: SessionState, error: PermanentError) -> list[Emit | Perform[Command]]:
    """A server that no tunnel may or can lead to is of no use to anybody: its session is stopped, and told why."""
    match state:
        case Listening(request=request) | Interrupted(request=request):
            stop = StopRequested(
                hub=request.hub,
                system=request.system,
                session=request.session,
                by="tunneler",
                reason=f"{error.reason} {error.remedy}"[:1024],
                refusal=error.code[:64],
            )
            return [Emit(stop)]
        case _:
            return []
