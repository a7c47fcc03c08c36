"""What the launcher decides in every state of a session, event by event."""

from __future__ import annotations

from typing import Any

import pytest

from schemas.acts import AdoptionRequested, DeadLetterRetried, EndRequested
from schemas.base import EventId
from schemas.lifecycle import Ended, SessionState, fold
from schemas.session import (
    JobCreated,
    JobStatusChanged,
    ProgressReported,
    Running,
    SessionEnded,
    SessionEvent,
    StartRejected,
    StopRequested,
)
from services._launching.ends import DEADLINE_PASSED, ended
from services._runtime.decider import Emit, Perform
from services._runtime.errors import PermanentError
from services.hpc_launcher.decide import (
    CONSUMES,
    ClearAway,
    CreateJob,
    EndJob,
    RemoveStray,
    SubmitJob,
    decide,
    give_up,
    obey,
)
from tests.support.samples import Story

STORY = Story()
REQUESTED, ADMITTED, CREATED = STORY.requested(), STORY.admitted(), STORY.created("job-1")
STARTED = [REQUESTED, ADMITTED, CREATED, STORY.submitted()]
LISTENING = [*STARTED, STORY.listening()]
READY = [*LISTENING, STORY.tunnel(), STORY.ready()]
STOP, END = STORY.stop(), STORY.ended()
PLACE: dict[str, Any] = {"hub": REQUESTED.hub, "system": REQUESTED.system, "session": REQUESTED.session}
REJECTED = StartRejected(**PLACE, code="no", message="no", remedy="no")
RUNS = JobStatusChanged(**PLACE, job_status=Running())
SAYS = ProgressReported(**PLACE, percent=1, message="x")
OTHER = STORY.created("job-2")

CREATE = CreateJob(REQUESTED, ADMITTED)
SUBMIT = SubmitJob(REQUESTED, ADMITTED, "job-1")
END_JOB = EndJob(REQUESTED, ADMITTED, "job-1", STOP)
END_ANY = EndJob(REQUESTED, ADMITTED, "", STOP)
CLEAR = ClearAway(REQUESTED, ADMITTED, "job-1")
CLEAR_ANY = ClearAway(REQUESTED, ADMITTED, "")
STRAY = RemoveStray(REQUESTED, ADMITTED, "job-2")


@pytest.mark.parametrize(
    ("history", "event", "commands"),
    [
        ([], None, []),
        ([REQUESTED], None, []),
        ([REQUESTED, REJECTED], None, []),
        ([REQUESTED, STOP], STOP, []),
        ([REQUESTED, ADMITTED], ADMITTED, [CREATE]),
        ([REQUESTED, ADMITTED], None, [CREATE]),
        ([REQUESTED, ADMITTED, CREATED], ADMITTED, [SUBMIT]),
        ([REQUESTED, ADMITTED, CREATED], CREATED, [SUBMIT]),
        ([REQUESTED, ADMITTED, CREATED], None, [SUBMIT]),
        ([REQUESTED, ADMITTED, CREATED], OTHER, [STRAY]),
        ([REQUESTED, ADMITTED, STOP], STOP, [END_ANY]),
        ([REQUESTED, ADMITTED, STOP], None, [END_ANY]),
        ([REQUESTED, ADMITTED, STOP, CREATED], CREATED, [END_JOB]),
        ([REQUESTED, ADMITTED, CREATED, STOP], STOP, [END_JOB]),
        ([REQUESTED, ADMITTED, CREATED, STOP], OTHER, [STRAY]),
        (STARTED, ADMITTED, []),
        (STARTED, None, []),
        (STARTED, RUNS, []),
        (STARTED, OTHER, [STRAY]),
        (STARTED, CREATED, []),
        (LISTENING, None, []),
        (READY, None, []),
        (READY, OTHER, [STRAY]),
        ([*READY, STOP], STOP, [END_JOB]),
        ([*READY, STOP], SAYS, [END_JOB]),
        ([*READY, STOP, END], END, [CLEAR]),
        ([*READY, STOP, END], STOP, [CLEAR]),
        ([*READY, STOP, END], None, [CLEAR]),
        ([*READY, STOP, END], RUNS, []),
        ([*READY, STOP, END], OTHER, [STRAY]),
        ([REQUESTED, ADMITTED, STOP, END], END, [CLEAR_ANY]),
        ([REQUESTED, ADMITTED, STOP, END], CREATED, [RemoveStray(REQUESTED, ADMITTED, "job-1")]),
        ([REQUESTED, REJECTED, END], END, []),
    ],
)
def test_decisions(history: list[SessionEvent], event: SessionEvent | None, commands: list[object]) -> None:
    steps = decide(fold(history), event)  # type: ignore[arg-type]
    assert steps == [Perform(command) for command in commands]


@pytest.mark.parametrize(
    ("history", "code", "outcome"),
    [
        ([REQUESTED, ADMITTED], "secrets-gone", "failed"),
        ([REQUESTED, ADMITTED], DEADLINE_PASSED, "expired"),
        ([REQUESTED, ADMITTED, CREATED], "refused-by-site", "failed"),
        (STARTED, "internal-error", "failed"),
        (READY, "internal-error", "failed"),
        ([REQUESTED, ADMITTED, STOP], "refused-by-site", "lost"),
        ([*READY, STOP], "refused-by-site", "lost"),
    ],
)
def test_what_can_never_work_ends_with_the_reason_and_a_remedy(
    history: list[SessionEvent], code: str, outcome: str
) -> None:
    [step] = give_up(fold(history), PermanentError(code, "because", "do this"))  # type: ignore[arg-type]
    assert isinstance(step, Emit)
    assert isinstance(step.event, SessionEnded)
    assert (step.event.outcome, step.event.reason, step.event.remedy) == (outcome, "because", "do this")


def test_a_job_that_may_run_is_stopped_and_not_just_given_up_when_its_start_comes_too_late() -> None:
    [step] = give_up(fold([REQUESTED, ADMITTED, CREATED]), PermanentError(DEADLINE_PASSED, "too late", "later"))
    assert isinstance(step, Emit)
    assert isinstance(step.event, StopRequested)
    assert (step.event.by, step.event.reason) == ("hpc-launcher", "too late")


@pytest.mark.parametrize("history", [[], [REQUESTED], [REQUESTED, REJECTED], [REQUESTED, STOP], [*READY, STOP, END]])
def test_nothing_is_given_up_that_is_not_the_launchers(history: list[SessionEvent]) -> None:
    assert give_up(fold(history), PermanentError("code", "reason", "remedy")) == []  # type: ignore[arg-type]


def test_what_the_decider_consumes_is_what_moves_it() -> None:
    moved = set()
    for history in ([REQUESTED, ADMITTED], [REQUESTED, ADMITTED, STOP], [*READY, STOP], [*READY, STOP, END]):
        state: SessionState = fold(history)  # type: ignore[arg-type]
        if decide(state, history[-1]):  # type: ignore[arg-type]
            moved.add(type(history[-1]))
    assert moved == set(CONSUMES)


def test_texts_are_cut_to_their_bounds() -> None:
    end = ended(REQUESTED, "failed", "x" * 5000, "y" * 5000)
    assert len(end.reason) == len(end.remedy) == 1024
    assert isinstance(fold([REQUESTED, end]), Ended)


ACT: dict[str, Any] = {
    **PLACE,
    "service": "hpc-launcher",
    "by": "operator ada",
    "reason": "seen at the site",
    "id": "act-1",
}


@pytest.mark.parametrize(
    ("history", "takes"),
    [
        ([REQUESTED], False),
        ([REQUESTED, ADMITTED], True),
        ([REQUESTED, ADMITTED, STOP], True),
        ([REQUESTED, ADMITTED, CREATED], False),
        ([REQUESTED, ADMITTED, CREATED, END], False),
    ],
)
def test_an_operators_adoption_is_a_job_where_the_log_knows_none(history: list[Any], takes: bool) -> None:
    steps = obey(fold(history), AdoptionRequested(**ACT, job="job-9"))
    created = JobCreated(**PLACE, job="job-9", cause=EventId("act-1"))
    assert steps == ([Emit(created)] if takes else [])


@pytest.mark.parametrize("history", [[REQUESTED, ADMITTED], [REQUESTED, ADMITTED, STOP], STARTED, LISTENING, READY])
def test_an_operators_word_ends_a_session_once(history: list[Any]) -> None:
    [step] = obey(fold(history), EndRequested(**ACT))
    assert isinstance(step, Emit)
    assert isinstance(step.event, SessionEnded)
    assert (step.event.outcome, step.event.cause) == ("lost", "act-1")
    assert step.event.reason == "Ended by operator ada: seen at the site"
    assert obey(fold([*history, step.event]), EndRequested(**ACT)) == []


def test_a_retried_dead_letter_of_an_ended_session_clears_away() -> None:
    assert obey(fold([*STARTED, END]), DeadLetterRetried(**ACT, letter=3)) == [Perform(CLEAR)]
