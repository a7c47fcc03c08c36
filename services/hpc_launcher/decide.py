"""What the launcher does in the life of a session: make the job, hand it over, end it, clear away. Pure."""

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

CONSUMES: tuple[type[SessionEvent], ...] = (StartAdmitted, StopRequested, SessionEnded)
LAUNCHER = "hpc-launcher"
"""Who stops a session whose deadline passed, as `stop-requested` names it."""


class CreateJob(msgspec.Struct, frozen=True):
    """Find or make the session's job, inert, with its secrets staged in."""

    request: StartRequested
    admission: StartAdmitted


class SubmitJob(msgspec.Struct, frozen=True):
    """Hand the job to the scheduler."""

    request: StartRequested
    admission: StartAdmitted
    job: str


class EndJob(msgspec.Struct, frozen=True):
    """End the job, and say so once it is over. Without a job's id the log knows of none, and none was started."""

    request: StartRequested
    admission: StartAdmitted
    job: str
    stop: StopRequested


class ClearAway(msgspec.Struct, frozen=True):
    """Remove everything of an ended session: its secrets, and its job or, without an id, what carries its tag."""

    request: StartRequested
    admission: StartAdmitted
    job: str


class RemoveStray(msgspec.Struct, frozen=True):
    """Remove a job that the log does not want: the session has another."""

    request: StartRequested
    admission: StartAdmitted
    job: str


Command = CreateJob | SubmitJob | EndJob | ClearAway | RemoveStray

FACTS: Mapping[type[Command], tuple[type[SessionEvent], ...]] = {
    CreateJob: (JobCreated,),
    SubmitJob: (JobSubmitted,),
    EndJob: (SessionEnded,),
    ClearAway: (),
    RemoveStray: (),
}
"""What comes of each command where the world does not refuse it. A replay tells facts from decisions by it."""


def decide(state: SessionState, event: AnySessionEvent | None) -> Steps[Command]:
    """The steps for a state. The event matters only where it tells of a second job, or where nothing is left to do."""
    match state:
        case Admitted(request=request, admission=admission):
            waits = isinstance(event, ProgressReported)  # our own word on why the job is not there yet
            return [] if waits else [Perform(CreateJob(request, admission))]
        case Created(request=request, admission=admission, job=job):
            return _stray(request, admission, job, event) or [Perform(SubmitJob(request, admission, job))]
        case Cancelling(request=request, admission=admission, stop=stop):
            return [Perform(EndJob(request, admission, "", stop))]
        case Stopping(request=request, admission=admission, job=job, stop=stop):
            return _stray(request, admission, job, event) or [Perform(EndJob(request, admission, job, stop))]
        case Submitted() | Listening() | Reachable() | Ready() | Interrupted():
            return _stray(state.request, state.admission, state.job, event)
        case Ended(request=request, admission=admission, job=job):
            if admission is None:
                return []
            if event is None or isinstance(event, CONSUMES):
                return [Perform(ClearAway(request, admission, job))]
            return _stray(request, admission, job, event)
        case NotStarted() | Requested() | Waiting() | Rejected() | Withdrawn():
            return []


def _stray(
    request: StartRequested, admission: StartAdmitted, job: str, event: AnySessionEvent | None
) -> Steps[Command]:
    if isinstance(event, JobCreated) and event.job != job:
        return [Perform(RemoveStray(request, admission, event.job))]
    return []


def give_up(state: SessionState, error: PermanentError) -> Steps[Command]:
    """The end of a session whose job can never be made, handed over or ended."""
    return ends.give_up(state, error, launcher=LAUNCHER)


def obey(state: SessionState, act: SessionAct) -> Steps[Command]:
    """What an operator asks for where reconciliation cannot decide; nothing where the session has moved on."""
    return ends.obey(state, act, decide)
