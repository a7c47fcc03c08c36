"""The pure comparison of log and site, and the bounds at which silence becomes an end."""

from __future__ import annotations

from datetime import timedelta

import pytest

from schemas.lifecycle import SessionState, fold
from schemas.session import SessionEvent
from services.hpc_launcher.ports import TaggedJob
from services.hpc_launcher.reconcile import (
    Nudge,
    RemoveOrphan,
    Silence,
    Step,
    compare,
    lost_at,
    overdue,
    waits_for_server,
)
from tests.support.samples import NOW, Story

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


def test_a_user_who_is_in_stays_in_until_the_jobs_own_limit_must_have_ended_it() -> None:
    ran = NOW - timedelta(minutes=30)
    silence = Silence(NOW, ran)
    assert lost_at(state(*READY), silence, 900) == ran + timedelta(hours=1, seconds=900)
    assert lost_at(state(*READY), Silence(NOW, None), 900) == NOW + timedelta(hours=1, seconds=900)


def test_a_start_is_given_up_only_after_its_deadline_and_a_long_silence() -> None:
    queued = state(*STARTED)
    assert lost_at(queued, Silence(NOW, None), 900) == NOW + timedelta(hours=24, seconds=900)
    late = NOW + timedelta(hours=30)
    assert lost_at(queued, Silence(late, None), 900) == late + timedelta(seconds=900)


def test_states_without_a_job_to_lose_have_no_bound() -> None:
    for known in (state(), state(*STARTED[:2]), state(*READY, STORY.stop())):
        assert lost_at(known, Silence(NOW, None), 900) is None


def test_who_rests_where_it_may_not() -> None:
    assert [overdue(state(*READY[:length])) for length in range(8)] == [
        False, False, True, True, False, False, False, False,
    ]  # fmt: skip
    assert overdue(state(*READY, STORY.stop()))
    assert overdue(state(*STARTED[:2], STORY.stop()))


def test_the_deadline_counts_until_the_server_listens() -> None:
    assert [waits_for_server(state(*READY[:length])) for length in range(2, 8)] == [
        False, True, True, False, False, False,
    ]  # fmt: skip
