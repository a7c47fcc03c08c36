"""How a launcher ends sessions, gives starts up and obeys operators, wherever its jobs run. Pure."""

from __future__ import annotations

from typing import Any

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
from schemas.session import JobCreated, LogTail, Outcome, SessionEnded, StartRequested, StopRequested, Use
from services._runtime.decider import Decide, Emit, Steps
from services._runtime.errors import PermanentError

DEADLINE_PASSED = "deadline-passed"
"""The code of a start that its site did not take in time."""


def give_up(state: SessionState, error: PermanentError, *, launcher: str) -> Steps[Any]:
    """The end of a session whose job can never be made, handed over or ended."""
    match state:
        case Created() if error.code == DEADLINE_PASSED:
            # An answer may have been lost: the job may run, and its session ends when it is proved that it does not.
            return [Emit(stop(state.request, launcher, error.reason, error.code))]
        case Admitted() | Created() | Submitted() | Listening() | Reachable() | Ready() | Interrupted():
            outcome: Outcome = "expired" if error.code == DEADLINE_PASSED else "failed"
            return [Emit(ended(state.request, outcome, error.reason, error.remedy, refusal=error.code))]
        case Cancelling() | Stopping():
            return [Emit(ended(state.request, "lost", error.reason, error.remedy, refusal=error.code))]
        case NotStarted() | Requested() | Waiting() | Rejected() | Withdrawn() | Ended():
            return []


def obey(state: SessionState, act: SessionAct, decide: Decide[Any]) -> Steps[Any]:
    """What an operator asks for where reconciliation cannot decide; nothing where the session has moved on."""
    match act:
        case AdoptionRequested(job=job, id=cause) if isinstance(state, Admitted | Cancelling):
            at = state.request
            return [Emit(JobCreated(hub=at.hub, system=at.system, session=at.session, job=job, cause=cause))]
        case EndRequested(by=by, reason=reason, id=cause) if isinstance(state, Admitted | Cancelling | WithJob):
            end = ended(state.request, "lost", f"Ended by {by}: {reason}")
            return [Emit(msgspec.structs.replace(end, cause=cause))]
        case DeadLetterRetried():
            return decide(state, None)
        case _:
            return []


def stop(request: StartRequested, launcher: str, reason: str, refusal: str = "") -> StopRequested:
    """The launcher's own wish for a session's end; like a user's, it is tried until the job is gone."""
    return StopRequested(
        hub=request.hub,
        system=request.system,
        session=request.session,
        by=launcher,
        reason=reason[:1024],
        refusal=refusal[:64],
    )


def stopped(wish: StopRequested, launcher: str) -> tuple[Outcome, str]:
    """Outcome and reason of a session that ended because somebody wished it."""
    if wish.by == launcher:
        return "expired", wish.reason
    return "stopped", f"Stopped by {wish.by}: {wish.reason}"


def ended(
    request: StartRequested,
    outcome: Outcome,
    reason: str,
    remedy: str = "",
    *,
    exit_code: int | None = None,
    log_tail: LogTail | None = None,
    use: Use | None = None,
    refusal: str = "",
) -> SessionEnded:
    """The end of a session, its texts within their bounds."""
    return SessionEnded(
        hub=request.hub,
        system=request.system,
        session=request.session,
        outcome=outcome,
        reason=reason[:1024],
        remedy=remedy[:1024],
        exit_code=exit_code,
        log_tail=log_tail or LogTail(),
        use=use or Use(),
        refusal=refusal[:64],
    )
