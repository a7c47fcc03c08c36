"""What a history says: phases, words, figures, lists. Truth tables over histories made by hand."""

from __future__ import annotations

from datetime import timedelta

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.session import (
    JobStatusChanged,
    LogTail,
    ProgressReported,
    Queued,
    Running,
    SessionEnded,
    SessionEvent,
    StartRejected,
    StartWaiting,
    TunnelLost,
    Unknown,
)
from services.operator_cli.story.explain import explain
from services.operator_cli.story.phases import phases, start_seconds
from services.operator_cli.story.row import Order, Wanted, rows
from services.operator_cli.story.stats import percentile, stats
from tests.services.operator_cli.histories import recorded
from tests.support.samples import HUB, NOW, SYSTEM, Story


def status(story: Story, job_status: Queued | Running | Unknown) -> JobStatusChanged:
    return JobStatusChanged(hub=HUB, system=SYSTEM, session=story.session, job_status=job_status)


def whole(story: Story) -> list[SessionEvent]:
    """A start that went well, one second an event, used and stopped."""
    return [
        story.requested(),
        story.admitted(),
        story.created(),
        story.submitted(),
        status(story, Running()),
        story.listening(),
        story.tunnel(),
        story.ready(),
        story.stop(),
        story.ended(),
    ]


def test_every_phase_of_a_start_its_use_and_its_stop_have_their_time() -> None:
    history = recorded(*whole(Story()))
    names = ["admission", "job creation", "submission", "queue", "server start", "tunnel", "arrival", "use", "stop"]
    assert [(phase.name, phase.seconds) for phase in phases(history)] == [(name, 1.0) for name in names]
    assert start_seconds(history) == 7.0


def test_a_phase_that_goes_on_has_no_time_yet_and_none_follows() -> None:
    story = Story()
    told = phases(recorded(story.requested(), story.admitted(), story.created(), story.submitted()))
    assert [(phase.name, phase.seconds) for phase in told][-2:] == [("submission", 1.0), ("queue", None)]


def test_a_start_that_is_stopped_in_the_queue_waited_until_the_stop() -> None:
    story = Story()
    events = [story.requested(), story.admitted(), story.created(), story.submitted(), story.stop(), story.ended()]
    assert [(phase.name, phase.seconds) for phase in phases(recorded(*events))][-2:] == [("queue", 1.0), ("stop", 1.0)]
    assert start_seconds(recorded(*events)) is None


def test_a_site_that_never_says_running_has_a_queue_until_the_server_listens() -> None:
    story = Story()
    events = [story.requested(), story.admitted(), story.created(), story.submitted(), story.listening()]
    told = {phase.name: phase.seconds for phase in phases(recorded(*events))}
    assert (told["queue"], told["server start"]) == (1.0, 0.0)


@given(st.integers(1, 10))
def test_phases_never_last_longer_than_the_session(cut: int) -> None:
    history = recorded(*whole(Story())[:cut])
    seconds = sum(phase.seconds or 0.0 for phase in phases(history))
    assert seconds <= (history[-1].message.at - history[0].message.at).total_seconds()


def ended(story: Story, outcome: str, **fields: object) -> SessionEnded:
    return msgspec.structs.replace(story.ended(), **{"outcome": outcome, **fields})


STORY = Story()
WAITING = StartWaiting(hub=HUB, system=SYSTEM, session=STORY.session, place_in_queue=2, reason="ztrain is full.")
REJECTED = StartRejected(
    hub=HUB, system=SYSTEM, session=STORY.session, code="no-project", message="No such project.", remedy="Ask its PI."
)
LOST = TunnelLost(hub=HUB, system=SYSTEM, session=STORY.session, generation=1, reason="login node rebooted")
SAID = ProgressReported(hub=HUB, system=SYSTEM, session=STORY.session, percent=10, message="Loading software")
FAILED = ended(
    STORY, "failed", exit_code=3, reason="The job ended.", remedy="Look.", log_tail=LogTail(stderr="no module\n")
)
BEGUN = [STORY.requested(), STORY.admitted(), STORY.created(), STORY.submitted()]
UP = [*BEGUN, STORY.listening(), STORY.tunnel()]
STANDINGS: dict[str, tuple[list[SessionEvent], str, str]] = {
    "requested": ([STORY.requested()], "asked for", "accounts"),
    "waiting": ([STORY.requested(), WAITING], "place 2: ztrain is full.", "a free place"),
    "rejected": ([STORY.requested(), REJECTED], "rejected: No such project.", "accounts"),
    "withdrawn": ([STORY.requested(), STORY.stop()], "ada withdrew", "accounts"),
    "admitted": (BEGUN[:2], "admitted", "the launcher"),
    "cancelling": ([*BEGUN[:2], STORY.stop()], "ada cancelled", "the launcher"),
    "created": (BEGUN[:3], "inert", "the launcher"),
    "queued": ([*BEGUN, status(STORY, Queued(place_in_queue=7))], "at place 7", "the site's scheduler"),
    "running": ([*BEGUN, status(STORY, Running())], "does not listen yet", "the job"),
    "unknown": ([*BEGUN, status(STORY, Unknown(evidence="HTTP 503"))], "HTTP 503", "the site"),
    "listening": ([*BEGUN, STORY.listening()], "listens", "the tunneler"),
    "reachable": (UP, "tunnel leads", "the hub"),
    "ready": ([*UP, STORY.ready()], "The user is in", ""),
    "interrupted": ([*UP, STORY.ready(), LOST], "login node rebooted", "the tunneler"),
    "stopping": ([*BEGUN, STORY.stop()], "ada asked for the end: enough", "the launcher"),
    "ended": ([*BEGUN, FAILED], "failed with exit code 3: The job ended.", ""),
}


@pytest.mark.parametrize("name", STANDINGS)
def test_every_state_is_told_in_words_with_who_is_to_act(name: str) -> None:
    events, summary, waits_for = STANDINGS[name]
    history = recorded(*events)
    said = explain(history, history[-1].message.at + timedelta(seconds=1))
    assert summary in said.summary
    assert said.waits_for.startswith(waits_for)
    assert bool(said.waits_for) == bool(waits_for)


def test_a_part_that_is_silent_for_long_is_named_with_what_to_look_at() -> None:
    history = recorded(*BEGUN[:2])
    early, late = (explain(history, history[-1].message.at + timedelta(seconds=each)) for each in (5, 300))
    assert early.remedy == ""
    assert "300 s" in late.remedy
    assert "the launcher" in late.remedy


def test_a_queue_is_no_fault_of_ours_however_long_it_is() -> None:
    history = recorded(*BEGUN)
    assert explain(history, history[-1].message.at + timedelta(days=3)).remedy == ""


def test_a_failure_is_told_with_what_was_last_heard() -> None:
    history = recorded(*BEGUN, SAID, status(STORY, Unknown(evidence="HTTP 503")), FAILED)
    said = explain(history, NOW + timedelta(hours=1))
    because = "\n".join(said.because)
    assert "the last the job said was: Loading software" in because
    assert "stderr: no module" in because
    assert "no help: HTTP 503" in because
    assert said.remedy == "Look."


def test_lists_are_narrowed_and_sorted_as_asked() -> None:
    ada, ben = Story(user="ada"), Story(user="ben", server_name="lab")
    histories = [recorded(*whole(ben)), recorded(*[STORY.requested()][:0], ada.requested(), first=50)]
    now = NOW + timedelta(seconds=100)

    def users(wanted: Wanted, order: Order = "started") -> list[str]:
        return [each.user for each in rows(histories, wanted, now, order)]

    assert users(Wanted()) == ["ben", "ada"]
    assert users(Wanted(), "user") == ["ada", "ben"]
    assert users(Wanted(live=True)) == ["ada"]
    assert users(Wanted(state="ended")) == ["ben"]
    assert users(Wanted(user="ben", system="demo-hpc")) == ["ben"]
    assert users(Wanted(vo="other")) == []
    assert users(Wanted(started_after=NOW + timedelta(seconds=30))) == ["ada"]
    assert users(Wanted(in_state_longer_than=timedelta(seconds=60))) == ["ben"]


def test_figures_count_what_came_to_be_used_and_why_others_failed() -> None:
    good, bad = Story(), Story()
    failed = ended(bad, "failed", reason="The job ended.")
    figures = stats([recorded(*whole(good)), recorded(bad.requested(), bad.admitted(), failed)])
    assert (figures.sessions, figures.ready, figures.live) == (2, 1, 0)
    spreads = {spread.phase: spread for spread in figures.spreads}
    assert (spreads["start"].p50, spreads["start"].count) == (7.0, 1)
    assert spreads["admission"].count == 2
    assert [(each.outcome, each.reason, each.count) for each in figures.failures] == [("failed", "The job ended.", 1)]


@given(st.lists(st.floats(0, 1e6), min_size=1), st.floats(1, 100))
def test_a_percentile_is_a_value_that_so_many_do_not_exceed(values: list[float], percent: float) -> None:
    ordered = sorted(values)
    found = percentile(ordered, percent)
    assert sum(each <= found for each in ordered) >= percent / 100 * len(ordered) - 1e-9
