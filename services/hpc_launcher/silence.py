"""How long a session whose job nobody hears of is kept, and whose deadline still counts. Pure."""

from __future__ import annotations

from datetime import datetime, timedelta

import msgspec

from schemas.lifecycle import Created, Reachable, Ready, SessionState, Stopping, Submitted, WithJob


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
