"""What a service knows from memory: every event once, in order, and the newest of what has ended."""

from __future__ import annotations

import asyncio

import pytest

from schemas.lifecycle import Admitted, Created, Ended, NotStarted, Requested
from schemas.session import SessionEvent
from schemas.subjects import Subjects
from services._runtime.log import Recorded
from services._runtime.memory import MemoryLog
from services._runtime.view import SessionView, as_session_event, placed
from tests.support.samples import Story, stamp

SUBJECTS = Subjects()


def recorded(sequence: int, event: SessionEvent) -> Recorded:
    return Recorded(sequence, stamp()(event, after=sequence - 1, cause=None))


def states(view: SessionView, *stories: Story) -> list[str]:
    return [type(here.state).__name__ if (here := view.get(story.session)) else "unknown" for story in stories]


def test_a_session_is_live_until_it_has_ended_and_known_afterwards() -> None:
    view, story = SessionView(), Story()
    assert view.get(story.session) is None
    view.observe(recorded(1, story.requested()))
    assert [session for session, _ in view.live()] == [story.session]
    view.observe(recorded(2, story.ended()))
    assert (list(view.live()), len(view)) == ([], 0)
    here = view.get(story.session)
    assert here is not None
    assert (type(here.state), here.sequence) == (Ended, 2)


def test_the_oldest_ended_sessions_are_forgotten_and_live_ones_never(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services._runtime.view.ENDED_KEPT", 2)
    view, live = SessionView(), Story()
    view.observe(recorded(1, live.requested()))
    ended = [Story() for _ in range(4)]
    for number, story in enumerate(ended):
        view.observe(recorded(2 * number + 2, story.requested()))
        view.observe(recorded(2 * number + 3, story.ended()))
    assert states(view, live, *ended) == ["Requested", "unknown", "unknown", "Ended", "Ended"]


def test_an_event_learned_and_then_observed_counts_once() -> None:
    view, story = SessionView(), Story()
    seen: list[tuple[int, str, str]] = []
    view.watch(lambda each, before, after: seen.append((each.sequence, type(before).__name__, type(after).__name__)))
    first, second = recorded(1, story.requested()), recorded(2, story.admitted())
    for event in (first, second):
        view.learn(event)
    assert view.sequence == 0, "what was learned says nothing of how far the follower is"
    for event in (first, second):
        view.observe(event)
    assert view.sequence == 2
    assert seen == [(1, "NotStarted", "Requested"), (2, "Requested", "Admitted")]


def test_an_older_event_that_comes_late_changes_nothing() -> None:
    view, story = SessionView(), Story()
    for number, event in enumerate([story.requested(), story.admitted(), story.created()], 1):
        view.learn(recorded(number, event))
    view.observe(recorded(1, story.requested()))
    assert states(view, story) == ["Created"]


def test_an_illegal_event_is_passed_over_and_its_place_counts() -> None:
    """Whoever appends next must append after it, or compare-and-append would refuse for ever."""
    view, story = SessionView(), Story()
    view.observe(recorded(1, story.requested()))
    view.observe(recorded(2, story.created()))
    here = view.get(story.session)
    assert here is not None
    assert (type(here.state), here.sequence) == (Requested, 2)
    assert placed([recorded(1, story.requested()), recorded(2, story.created())]) == here


def test_a_history_without_a_beginning_is_no_session() -> None:
    view, story = SessionView(), Story()
    view.observe(recorded(7, story.created()))
    assert list(view.live()) == []
    here = placed([recorded(7, story.created())])
    assert (type(here.state), here.sequence) == (NotStarted, 7)
    assert placed([]).sequence == 0


def test_the_view_may_grow_while_it_is_read() -> None:
    view = SessionView()
    view.observe(recorded(1, Story().requested()))
    for sequence, _ in enumerate(view.live(), 2):
        view.observe(recorded(sequence, Story().requested()))
    assert len(view) == 2


async def test_reached_waits_for_the_follower_alone() -> None:
    view, story = SessionView(), Story()
    view.observe(recorded(1, story.requested()))
    assert await view.reached(1, 0.0)
    waiting = [asyncio.create_task(view.reached(sequence, 5.0)) for sequence in (2, 3)]
    await asyncio.sleep(0)
    view.learn(recorded(3, story.admitted()))
    await asyncio.sleep(0)
    assert not waiting[0].done()
    view.observe(recorded(2, Story().requested()))
    assert await waiting[0]
    assert not waiting[1].done()
    view.observe(recorded(3, story.admitted()))
    assert await waiting[1]


async def test_reached_gives_up_and_leaves_nothing_waiting() -> None:
    view = SessionView()
    assert not await view.reached(1, 0.01)
    view.observe(recorded(1, Story().requested()))
    assert await view.reached(1, 0.0)


async def test_a_view_follows_a_log_by_its_filters() -> None:
    log, view, story = MemoryLog(), SessionView(), Story()

    async def append(event: SessionEvent, after: int) -> int:
        stamped = stamp()(event, after=after, cause=None)
        scope = SUBJECTS.session(event.session)
        return await log.append("SESSIONS", SUBJECTS.session_event(stamped), stamped, scope=scope, after=after)

    first = await append(story.requested(), 0)
    following = await view.follow(log, [SUBJECTS.sessions(system="demo-hpc")])
    elsewhere = SessionView()
    await elsewhere.follow(log, [SUBJECTS.sessions(system="another")])
    second = await append(story.admitted(), first)
    assert (states(view, story), len(elsewhere)) == (["Admitted"], 0)
    await following.close()
    await append(story.created(), second)
    assert states(view, story) == ["Admitted"]


def test_only_concrete_events_are_events() -> None:
    story = Story()
    assert as_session_event(story.requested()) == story.requested()
    with pytest.raises(TypeError, match="SessionEvent is not a concrete event"):
        as_session_event(
            SessionEvent(hub=story.requested().hub, system=story.requested().system, session=story.session)
        )


def test_states_are_those_of_the_lifecycle() -> None:
    story = Story()
    events = [story.requested(), story.admitted(), story.created()]
    kinds = [type(placed([recorded(n, e) for n, e in enumerate(events[:upto], 1)]).state) for upto in (1, 2, 3)]
    assert kinds == [Requested, Admitted, Created]
