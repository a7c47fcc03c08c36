"""What the cloud launcher does in the life of a session: make its pod, open it, end it, clear away. Pure."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from schemas.acts import SessionAct
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
    JobCreated,
    JobSubmitted,
    ProgressReported,
    SessionEnded,
    SessionEvent,
    StartAdmitted,
    StartRequested,
    StopRequested,
)
from services._launching import ends
from services._runtime.decider import Perform, Steps
from services._runtime.errors import PermanentError
from services.cloud_launcher.ports import PodName

CONSUMES: tuple[type[SessionEvent], ...] = (StartAdmitted, StopRequested, SessionEnded)
LAUNCHER = "cloud-launcher"
"""Who stops a session whose time is over, as `stop-requested` names it."""


class MakePod(msgspec.Struct, frozen=True):
    """Make or adopt the session's pod, its gate closed."""

    request: StartRequested


class OpenPod(msgspec.Struct, frozen=True):
    """Make what belongs to the pod, its secret among it, and open its gate."""

    request: StartRequested
    pod: PodName


class EndPod(msgspec.Struct, frozen=True):
    """End the pod, and say so once it is gone. None: the log knows of none, and none was opened."""

    request: StartRequested
    pod: PodName | None
    stop: StopRequested


class ClearAway(msgspec.Struct, frozen=True):
    """Remove everything of an ended session: its secrets, and its pod with what belongs to it."""

    request: StartRequested
    pod: PodName | None


Command = MakePod | OpenPod | EndPod | ClearAway

FACTS: Mapping[type[Command], tuple[type[SessionEvent], ...]] = {
    MakePod: (JobCreated,),
    OpenPod: (JobSubmitted,),
    EndPod: (SessionEnded,),
    ClearAway: (),
}
"""What comes of each command where the world does not refuse it. A replay tells facts from decisions by it."""


def decide(state: SessionState, event: AnySessionEvent | None) -> Steps[Command]:
    """The steps for a state; names come from the session, so that no event can tell of a second pod."""
    match state:
        case Admitted(request=request):
            return [] if isinstance(event, ProgressReported) else [Perform(MakePod(request))]
        case Created(request=request, job=job):
            return [] if isinstance(event, ProgressReported) else [Perform(OpenPod(request, PodName.of(job)))]
        case Cancelling(request=request, stop=stop):
            return [Perform(EndPod(request, None, stop))]
        case Stopping(request=request, job=job, stop=stop):
            return [Perform(EndPod(request, PodName.of(job), stop))]
        case Ended(request=request, admission=admission, job=job):
            wanted = admission is not None and (event is None or isinstance(event, CONSUMES))
            return [Perform(ClearAway(request, PodName.of(job) if job else None))] if wanted else []
        case Submitted() | Listening() | Reachable() | Ready() | Interrupted():
            return []
        case NotStarted() | Requested() | Waiting() | Rejected() | Withdrawn():
            return []


def give_up(state: SessionState, error: PermanentError) -> Steps[Command]:
    """The end of a session whose pod can never be made, opened or ended."""
    return ends.give_up(state, error, launcher=LAUNCHER)


def obey(state: SessionState, act: SessionAct) -> Steps[Command]:
    """What an operator asks for where the cluster cannot tell; nothing where the session has moved on."""
    return ends.obey(state, act, decide)
