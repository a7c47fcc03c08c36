"""The cloud launcher's decisions as truth tables."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from schemas.acts import AdoptionRequested, DeadLetterRetried, EndRequested
from schemas.base import EventId
from schemas.lifecycle import NOT_STARTED, SessionState, evolve
from schemas.session import JobCreated, JobSubmitted, ProgressReported, SessionEnded, StopRequested
from services._launching.ends import DEADLINE_PASSED
from services._runtime.decider import Emit, Perform
from services._runtime.errors import PermanentError
from services.cloud_launcher.decide import (
    LAUNCHER,
    ClearAway,
    EndPod,
    MakePod,
    OpenPod,
    decide,
    give_up,
    obey,
)
from services.cloud_launcher.pods import strays
from services.cloud_launcher.ports import PodName, Queued, Seen
from tests.services.cloud_launcher.stage import CLOUD, Story

STORY = Story()
POD = PodName("farlab", f"farlab-{STORY.session}", "uid-1")
REQUEST = STORY.requested()
AT: dict[str, Any] = {"hub": REQUEST.hub, "system": CLOUD, "session": STORY.session}


def after(*names: str) -> SessionState:
    """The state after these events."""
    events: dict[str, Any] = {
        "requested": REQUEST,
        "admitted": STORY.admitted(),
        "created": JobCreated(job=POD.job, **AT),
        "submitted": JobSubmitted(**AT),
        "stop": STORY.stop(),
        "ended": SessionEnded(outcome="stopped", reason="r", **AT),
    }
    state: SessionState = NOT_STARTED
    for name in names:
        state = evolve(state, events[name])
    return state


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("requested",), []),
        (("requested", "admitted"), [MakePod(REQUEST)]),
        (("requested", "admitted", "created"), [OpenPod(REQUEST, POD)]),
        (("requested", "admitted", "created", "submitted"), []),
        (("requested", "admitted", "stop"), [EndPod(REQUEST, None, STORY.stop())]),
        (("requested", "admitted", "created", "stop"), [EndPod(REQUEST, POD, STORY.stop())]),
        (("requested", "admitted", "created", "submitted", "stop", "ended"), [ClearAway(REQUEST, POD)]),
        (("requested", "admitted", "stop", "ended"), [ClearAway(REQUEST, None)]),
        (("requested", "stop", "ended"), []),
    ],
)
def test_the_state_alone_says_what_to_do(names: tuple[str, ...], expected: list[object]) -> None:
    assert decide(after(*names), None) == [Perform(each) for each in expected]


def test_our_own_word_on_why_it_waits_is_no_reason_to_do_it_again() -> None:
    said = ProgressReported(percent=0, message="Waiting", **AT)
    assert decide(after("requested", "admitted"), said) == []
    assert decide(after("requested", "admitted", "created"), said) == []


@pytest.mark.parametrize(
    ("names", "code", "outcome"),
    [
        (("requested", "admitted"), "quota-exceeded", "failed"),
        (("requested", "admitted"), DEADLINE_PASSED, "expired"),
        (("requested", "admitted", "created", "stop"), "anything", "lost"),
    ],
)
def test_what_can_never_work_ends_with_its_reason(names: tuple[str, ...], code: str, outcome: str) -> None:
    [step] = give_up(after(*names), PermanentError(code, "why", "what helps"))
    assert isinstance(step, Emit)
    assert isinstance(step.event, SessionEnded)
    assert (step.event.outcome, step.event.reason, step.event.remedy) == (outcome, "why", "what helps")
    assert give_up(after("requested"), PermanentError(code, "why", "")) == []


def test_a_pod_whose_gate_may_be_open_is_ended_before_its_session() -> None:
    [step] = give_up(after("requested", "admitted", "created"), PermanentError(DEADLINE_PASSED, "why", "what helps"))
    wish = StopRequested(by=LAUNCHER, reason="why", refusal=DEADLINE_PASSED, **AT)
    assert step == Emit(wish)


def test_operators_adopt_and_end_where_the_cluster_cannot_tell() -> None:
    act: dict[str, Any] = {**AT, "service": "cloud-launcher", "by": "op", "reason": "r"}
    adopted = obey(after("requested", "admitted"), AdoptionRequested(job=POD.job, id=EventId("a"), **act))
    assert adopted == [Emit(JobCreated(job=POD.job, cause=EventId("a"), **AT))]
    [end] = obey(after("requested", "admitted", "created"), EndRequested(id=EventId("b"), **act))
    assert isinstance(end, Emit)
    assert end.event.cause == "b"
    assert obey(after("requested"), EndRequested(**act)) == []
    retried = obey(after("requested", "admitted"), DeadLetterRetried(letter=1, **act))
    assert retried == [Perform(MakePod(REQUEST))]


SEEN = Seen(POD, STORY.session, Queued())


def test_a_pod_that_is_going_is_left_alone() -> None:
    assert strays({}, [SEEN]) == [SEEN]
    assert strays({}, [msgspec.structs.replace(SEEN, leaving=True)]) == []
    assert strays({STORY.session: after("requested", "admitted", "created")}, [SEEN]) == []
