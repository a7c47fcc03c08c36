"""The bounds at which silence becomes an end."""

from __future__ import annotations

from datetime import timedelta

from schemas.lifecycle import SessionState, fold
from schemas.session import SessionEvent
from services.hpc_launcher.silence import Silence, lost_at, waits_for_server
from tests.support.samples import NOW, Story

STORY = Story()
STARTED: list[SessionEvent] = [STORY.requested(), STORY.admitted(), STORY.created("job-1"), STORY.submitted()]
READY = [*STARTED, STORY.listening(), STORY.tunnel(), STORY.ready()]


def state(*events: SessionEvent) -> SessionState:
    return fold(events)  # type: ignore[arg-type]


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


def test_the_deadline_counts_until_the_server_listens() -> None:
    assert [waits_for_server(state(*READY[:length])) for length in range(2, 8)] == [
        False, True, True, False, False, False,
    ]  # fmt: skip
