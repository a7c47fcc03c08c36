"""The state machine under every order of events that hypothesis can think of."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.lifecycle import (
    NOT_STARTED,
    Cancelling,
    Ended,
    IllegalEventError,
    NotStarted,
    SessionState,
    Stopping,
    Withdrawn,
    WithJob,
    WithTunnel,
    evolve,
    fold,
)
from schemas.session import (
    AnySessionEvent,
    JobCreated,
    JobStatusChanged,
    ProgressReported,
    Running,
    SessionEnded,
    StartRejected,
    StartRequested,
    StartWaiting,
    StopRequested,
    TunnelLost,
    TunnelReady,
)
from tests.support.samples import HUB, SYSTEM, Story

STORY = Story()
PLACE = {"hub": HUB, "system": SYSTEM, "session": STORY.session}
HAPPY: list[AnySessionEvent] = [
    STORY.requested(),
    STORY.admitted(),
    STORY.created(),
    STORY.submitted(),
    JobStatusChanged(**PLACE, job_status=Running()),
    STORY.listening(),
    STORY.tunnel(),
    STORY.ready(),
    STORY.stop(),
    STORY.ended(),
]
EVENTS = st.one_of(
    st.sampled_from(HAPPY),
    st.just(StartWaiting(**PLACE, place_in_queue=2, reason="full")),
    st.just(StartRejected(**PLACE, code="no", message="no", remedy="ask")),
    st.just(ProgressReported(**PLACE, percent=10, message="modules")),
    st.just(STORY.created("job-2")),
    st.integers(1, 5).map(lambda generation: STORY.tunnel(generation)),
    st.integers(0, 5).map(lambda generation: TunnelLost(**PLACE, generation=generation, reason="cut")),
)


def test_a_session_that_goes_well() -> None:
    states = [type(fold(HAPPY[:length])).__name__ for length in range(len(HAPPY) + 1)]
    assert states == [
        "NotStarted",
        "Requested",
        "Admitted",
        "Created",
        "Submitted",
        "Submitted",
        "Listening",
        "Reachable",
        "Ready",
        "Stopping",
        "Ended",
    ]


@pytest.mark.parametrize("length", range(len(HAPPY)))
def test_a_stop_is_taken_once_wherever_it_comes(length: int) -> None:
    state = fold(HAPPY[:length])
    if isinstance(state, NotStarted | Stopping):
        with pytest.raises(IllegalEventError):
            evolve(state, STORY.stop())
        return
    stopping = evolve(state, STORY.stop())
    assert isinstance(stopping, Withdrawn | Cancelling | Stopping)
    with pytest.raises(IllegalEventError):
        evolve(stopping, STORY.stop())


@pytest.mark.parametrize("length", range(1, len(HAPPY) - 1))
def test_a_started_session_can_always_end_and_an_ended_one_takes_nothing(length: int) -> None:
    ended = evolve(fold(HAPPY[:length]), STORY.ended())
    assert isinstance(ended, Ended)
    for event in HAPPY:
        with pytest.raises(IllegalEventError):
            evolve(ended, event)


@given(st.lists(EVENTS, max_size=30))
def test_no_order_of_events_makes_two_jobs_or_two_ends(events: list[AnySessionEvent]) -> None:
    state: SessionState = NOT_STARTED
    jobs, ends, generation = 0, 0, 0
    for event in events:
        try:
            after = evolve(state, event)
        except IllegalEventError as refusal:
            assert type(event).__name__ in str(refusal)
            continue
        jobs += isinstance(event, JobCreated)
        ends += isinstance(event, SessionEnded)
        if isinstance(event, TunnelReady):
            assert event.generation > generation
            generation = event.generation
        if isinstance(state, WithJob) and isinstance(after, WithJob):
            assert after.job == state.job
        state = after
    assert jobs <= 1
    assert ends <= 1
    assert fold(events) == state
    if isinstance(state, WithTunnel):
        assert state.tunnel.generation == generation


@given(st.lists(EVENTS, max_size=20), st.lists(EVENTS, max_size=10))
def test_a_fold_goes_on_where_it_stopped(first: list[AnySessionEvent], then: list[AnySessionEvent]) -> None:
    state = fold(first)
    for event in then:
        try:
            state = evolve(state, event)
        except IllegalEventError:
            continue
    assert fold(first + then) == state


def test_what_asked_for_a_start_is_never_forgotten() -> None:
    for length in range(1, len(HAPPY) + 1):
        state = fold(HAPPY[:length])
        assert not isinstance(state, NotStarted)
        assert isinstance(state.request, StartRequested)
        assert not isinstance(HAPPY[length - 1], StopRequested) or isinstance(state, Stopping)
