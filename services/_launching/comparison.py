"""Compares what the log wants with the jobs that are there, and says what closes the difference. Pure.

A job is whatever a launcher makes for a session, a pod too: what counts is that it carries our mark.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from schemas.base import SessionId
from schemas.lifecycle import Admitted, Cancelling, Created, Ended, NotStarted, SessionState, Stopping, WithJob


class TaggedJob(msgspec.Struct, frozen=True):
    """A job that carries our mark, and the session it names, None when it names none."""

    job: str
    session: SessionId | None


class Nudge(msgspec.Struct, frozen=True):
    """The session waits for something that its state alone demands: decide again."""

    session: SessionId


class RemoveOrphan(msgspec.Struct, frozen=True):
    """There is a job that the log does not want."""

    job: str
    why: str


Step = Nudge | RemoveOrphan


def overdue(state: SessionState) -> bool:
    """Whether the state demands something of the launcher, so that none may rest in it."""
    return isinstance(state, Admitted | Created | Cancelling | Stopping)


def compare(wanted: Mapping[SessionId, SessionState], found: Iterable[TaggedJob]) -> list[Step]:
    """The steps for jobs that carry our mark, given the states of the sessions they name.

    A session in the making is left to its own handler, which looks for its job by the mark and adopts it.
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
