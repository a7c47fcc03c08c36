"""Compares what the log wants on a site with the jobs the site has, and says what closes the difference. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta

import msgspec

from schemas.base import SessionId
from schemas.lifecycle import (
    Admitted,
    Cancelling,
    Created,
    Ended,
    NotStarted,
    Reachable,
    Ready,
    SessionState,
    Stopping,
    Submitted,
    WithJob,
)
from services.hpc_launcher.ports import TaggedJob


class Nudge(msgspec.Struct, frozen=True):
    """The session waits for something that its state alone demands: decide again."""

    session: SessionId


class RemoveOrphan(msgspec.Struct, frozen=True):
    """The site has a job that the log does not want."""

    job: str
    why: str


Step = Nudge | RemoveOrphan


def overdue(state: SessionState) -> bool:
    """Whether the state demands something of the launcher, so that none may rest in it."""
    return isinstance(state, Admitted | Created | Cancelling | Stopping)


def compare(wanted: Mapping[SessionId, SessionState], found: Iterable[TaggedJob]) -> list[Step]:
    """The steps for jobs that carry our tag, given the states of the sessions they name.

    A session in the making is left to its own handler, which looks for its job by the tag and adopts it.
    """
    steps: list[Step] = []
    for tagged in found:
        if tagged.session is None:
            steps.append(RemoveOrphan(tagged.job, "it names no session"))
            continue
        match wanted.get(tagged.session, NotStarted()):
            case Admitted() | Cancelling():
                steps.append(Nudge(tagged.session))
            case state if isinstance(state, WithJob):
                if state.job != tagged.job:
                    steps.append(RemoveOrphan(tagged.job, "its session has another job"))
            case Ended():
                steps.append(RemoveOrphan(tagged.job, "its session has ended"))
            case NotStarted():
                steps.append(RemoveOrphan(tagged.job, "the log knows no such session"))
            case _:
                steps.append(RemoveOrphan(tagged.job, "its session was not admitted"))
    return steps


class Silence(msgspec.Struct, frozen=True):
    """Since when a site says nothing of a job, and when the job began as far as that is known."""

    since: datetime
    running_since: datetime | None


def lost_at(state: SessionState, silence: Silence, lost_after_seconds: float) -> datetime | None:
    """The stated bound: when a session whose job is unknown ends as lost. None: the state has no such bound.

    A silent site is no proof. A user who is in stays in until the job's own time limit must have ended it; a start
    is given up when its deadline passed; both only after the site was silent for `lost_after_seconds`.
    """
    if not isinstance(state, WithJob) or isinstance(state, Stopping):
        return None
    runtime = timedelta(seconds=state.request.resources.runtime_seconds)
    if silence.running_since is not None:
        bound = silence.running_since + runtime
    elif isinstance(state, Reachable | Ready):
        bound = silence.since + runtime
    else:
        bound = state.request.deadline
    return max(bound, silence.since) + timedelta(seconds=lost_after_seconds)


def waits_for_server(state: SessionState) -> bool:
    """Whether the session's server does not listen yet, so that the start's deadline counts."""
    return isinstance(state, Created | Submitted)
