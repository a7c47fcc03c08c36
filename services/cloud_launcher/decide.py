"""What the cloud launcher does in the life of a session: make its pod, open it, end it, clear away. Pure."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from schemas.acts import AdoptionRequested, DeadLetterRetried, EndRequested, SessionAct
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
    WithJob,
)
from schemas.session import (
    AnySessionEvent,
    JobCreated,
    JobSubmitted,
    LogTail,
    Outcome,
    ProgressReported,
    SessionEnded,
    SessionEvent,
    StartAdmitted,
    StartRequested,
    StopRequested,
    Use,
)
from services._runtime.decider import Emit, Perform
from services._runtime.errors import PermanentError
from services.cloud_launcher.ports import PodName

CONSUMES: tuple[type[SessionEvent], ...] = (StartAdmitted, StopRequested, SessionEnded)
LAUNCHER = "cloud-launcher"
"""Who stops a session whose time is over, as `stop-requested` names it."""
DEADLINE_PASSED = "deadline-passed"


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
Steps = list[Emit | Perform[Command]]


def decide(state: SessionState, event: AnySessionEvent | None) -> Steps:
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


def give_up(state: SessionState, error: PermanentError) -> Steps:
    """The end of a session whose pod can never be made, opened or ended."""
    match state:
        case Admitted() | Created() | Submitted() | Listening() | Reachable() | Ready() | Interrupted():
            outcome: Outcome = "expired" if error.code == DEADLINE_PASSED else "failed"
            return [Emit(end_of(state.request, outcome, error.reason, error.remedy, refusal=error.code))]
        case Cancelling() | Stopping():
            return [Emit(end_of(state.request, "lost", error.reason, error.remedy, refusal=error.code))]
        case NotStarted() | Requested() | Waiting() | Rejected() | Withdrawn() | Ended():
            return []


def obey(state: SessionState, act: SessionAct) -> Steps:
    """What an operator asks for where the cluster cannot tell; nothing where the session has moved on."""
    match act:
        case AdoptionRequested(job=job, id=cause) if isinstance(state, Admitted | Cancelling):
            at = state.request
            return [Emit(JobCreated(hub=at.hub, system=at.system, session=at.session, job=job, cause=cause))]
        case EndRequested(by=by, reason=reason, id=cause) if isinstance(state, Admitted | Cancelling | WithJob):
            end = end_of(state.request, "lost", f"Ended by {by}: {reason}")
            return [Emit(msgspec.structs.replace(end, cause=cause))]
        case DeadLetterRetried():
            return decide(state, None)
        case _:
            return []


def stop_of(request: StartRequested, reason: str) -> StopRequested:
    """The launcher's own wish for a session's end, tried like a user's until the pod is gone."""
    at = request
    return StopRequested(hub=at.hub, system=at.system, session=at.session, by=LAUNCHER, reason=reason[:1024])


def end_of(
    request: StartRequested,
    outcome: Outcome,
    reason: str,
    remedy: str = "",
    *,
    exit_code: int | None = None,
    log: str = "",
    use: Use | None = None,
    refusal: str = "",
) -> SessionEnded:
    """The end of a session, its texts within their bounds."""
    at, bounded = request, (reason[:1024], remedy[:1024])
    return SessionEnded(
        hub=at.hub,
        system=at.system,
        session=at.session,
        outcome=outcome,
        reason=bounded[0],
        remedy=bounded[1],
        exit_code=exit_code,
        log_tail=LogTail(stdout=log),
        use=use or Use(),
        refusal=refusal[:64],
    )
