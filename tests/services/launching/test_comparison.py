"""The pure comparison of the log with the jobs that are there."""

from __future__ import annotations

import pytest

from schemas.lifecycle import SessionState, fold
from schemas.session import SessionEvent
from services._launching.comparison import Nudge, RemoveOrphan, Step, TaggedJob, compare, overdue
from tests.support.samples import Story

STORY = Story()
STARTED: list[SessionEvent] = [STORY.requested(), STORY.admitted(), STORY.created("job-1"), STORY.submitted()]
READY = [*STARTED, STORY.listening(), STORY.tunnel(), STORY.ready()]


def state(*events: SessionEvent) -> SessionState:
    return fold(events)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("known", "job", "expected"),
    [
        (state(*STARTED), "job-1", []),
        (state(*READY), "job-1", []),
        (state(*READY, STORY.stop()), "job-1", []),
        (state(*STARTED), "job-2", [RemoveOrphan("job-2", "its session has another job")]),
        (state(*STARTED[:2]), "job-1", [Nudge(STORY.session)]),
        (state(*STARTED[:2], STORY.stop()), "job-1", [Nudge(STORY.session)]),
        (state(*READY, STORY.stop(), STORY.ended()), "job-1", [RemoveOrphan("job-1", "its session has ended")]),
        (state(), "job-1", [RemoveOrphan("job-1", "the log knows no such session")]),
        (state(STORY.requested()), "job-1", [RemoveOrphan("job-1", "its session was not admitted")]),
    ],
)
def test_differences_are_closed(known: SessionState, job: str, expected: list[Step]) -> None:
    assert compare({STORY.session: known}, [TaggedJob(job, STORY.session)]) == expected


def test_a_job_that_names_no_session_is_an_orphan() -> None:
    assert compare({}, [TaggedJob("job-9", None)]) == [RemoveOrphan("job-9", "it names no session")]


def test_who_rests_where_it_may_not() -> None:
    assert [overdue(state(*READY[:length])) for length in range(8)] == [
        False, False, True, True, False, False, False, False,
    ]  # fmt: skip
    assert overdue(state(*READY, STORY.stop()))
    assert overdue(state(*STARTED[:2], STORY.stop()))
