"""Which session an operator means, what is told of it, and that a stop is asked for once."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from schemas.lifecycle import Ended, Stopping, Withdrawn
from schemas.session import SessionEvent, StartWaiting, StopRequested
from schemas.subjects import Subjects
from services._runtime.log import Log
from services._runtime.memory import MemoryLog
from services._runtime.view import placed
from services.operator_cli.acts.stop import request_stop
from services.operator_cli.histories import LogHistories
from services.operator_cli.story.history import NoSuchSessionError, find
from services.operator_cli.story.row import row
from services.operator_cli.story.timeline import timeline
from tests.services.operator_cli.histories import recorded
from tests.support.samples import HUB, NOW, SYSTEM, Story, stamp

SUBJECTS = Subjects()


async def append(log: Log, event: SessionEvent) -> None:
    scope = SUBJECTS.session(event.session)
    history = await log.history("SESSIONS", scope)
    after = history[-1].sequence if history else 0
    stamped = stamp()(event, after=after, cause=None)
    await log.append("SESSIONS", SUBJECTS.session_event(stamped), stamped, scope=scope, after=after)


def test_a_timeline_has_times_causes_and_what_each_event_says() -> None:
    story = Story()
    steps = timeline(recorded(story.requested(), story.admitted(), story.created("job-7")))
    assert [step.after_seconds for step in steps] == [0.0, 1.0, 1.0]
    assert [step.type for step in steps] == ["start-requested.v1", "start-admitted.v1", "job-created.v1"]
    assert [step.cause for step in steps] == [None, steps[0].id, steps[1].id]
    assert steps[2].details == {"job": "job-7"}


def test_an_event_that_every_reader_passes_over_is_shown_as_such() -> None:
    story = Story()
    steps = timeline(recorded(story.requested(), story.created(), story.admitted()))
    assert [step.state for step in steps] == ["requested", "(ignored)", "admitted"]


def test_a_place_in_the_queue_is_part_of_the_state() -> None:
    story = Story()
    waiting = StartWaiting(hub=HUB, system=SYSTEM, session=story.session, place_in_queue=3, reason="quota")
    listed = row(recorded(story.requested(), waiting))
    assert listed is not None
    assert (listed.state, listed.outcome) == ("waiting (3)", "")
    assert (listed.started, listed.since) == (NOW + timedelta(seconds=1), NOW + timedelta(seconds=2))


def test_a_session_whose_beginning_is_not_in_the_log_any_more_is_no_row_and_breaks_nothing() -> None:
    story = Story()
    history = recorded(story.created(), story.ended(), first=9)
    assert row(history) is None
    assert [step.state for step in timeline(history)] == ["(ignored)", "(ignored)"]
    assert find([history], story.session) is history


def test_of_a_users_sessions_the_newest_of_that_server_is_meant() -> None:
    first, second, other = (
        recorded(Story(user="ada", server_name=name).requested(), first=number)
        for number, name in enumerate(["lab", "lab", ""], 1)
    )
    sessions = [first, second, other]
    assert find(sessions, "ada/lab") is second
    assert find(sessions, "ada/") is other
    assert find(sessions, "ada") is other


@pytest.mark.parametrize("wanted", ["nope", "ada/none", "eve/lab", "*", "' or 1=1"])
def test_what_is_not_there_is_said_with_the_command_that_lists_what_is(wanted: str) -> None:
    sessions = [recorded(Story(user="ada", server_name="lab").requested())]
    with pytest.raises(NoSuchSessionError, match="`farlab sessions` lists them"):
        find(sessions, wanted)


def test_an_id_that_means_many_names_some_of_them() -> None:
    sessions = [recorded(Story().requested()) for _ in range(9)]
    with pytest.raises(NoSuchSessionError, match=r"means 9 sessions: 01.*; give more of the id") as refused:
        find(sessions, "01")
    assert str(refused.value).count(",") == 4


def test_no_session_at_all_is_no_crash() -> None:
    with pytest.raises(NoSuchSessionError):
        find([], "01")


async def test_all_sessions_of_a_log_are_read_each_with_its_own_events() -> None:
    log, one, two = MemoryLog(), Story(), Story()
    for event in (one.requested(), two.requested(), one.admitted(), two.stop(), one.created()):
        await append(log, event)
    histories = await LogHistories(log, SUBJECTS).all()
    assert [len(history) for history in histories] == [3, 2]
    assert await LogHistories(log, SUBJECTS).all(system="elsewhere") == []


async def test_a_stop_is_requested_once_and_says_who_and_why() -> None:
    log, story = MemoryLog(), Story()
    for event in (story.requested(), story.admitted(), story.created()):
        await append(log, event)
    said = [await request_stop(log, SUBJECTS, stamp(), story.session, "maintenance") for _ in range(2)]
    assert said == ["its stop is requested", "it is being stopped already"]
    history = await log.history("SESSIONS", SUBJECTS.session(story.session))
    [stop] = [each.message for each in history if isinstance(each.message, StopRequested)]
    assert stop.by.startswith("operator ")
    assert stop.reason == "maintenance"
    assert isinstance(placed(history).state, Stopping)
    await append(log, story.ended())
    assert await request_stop(log, SUBJECTS, stamp(), story.session, "again") == "it has ended already"


async def test_operators_and_services_that_race_get_one_stop() -> None:
    log, story = MemoryLog(), Story()
    await append(log, story.requested())
    seals = [stamp(f"operator-{number}") for number in range(8)]
    said = await asyncio.gather(*[request_stop(log, SUBJECTS, seal, story.session, seal.source) for seal in seals])
    assert sorted(said) == ["it is being stopped already"] * 7 + ["its stop is requested"]
    history = await log.history("SESSIONS", SUBJECTS.session(story.session))
    assert isinstance(placed(history).state, Withdrawn)
    assert len(history) == 2


async def test_an_end_that_comes_between_is_no_stop() -> None:
    class Late(MemoryLog):
        async def append(self, stream, subject, message, *, scope, after):  # type: ignore[no-untyped-def]
            if isinstance(message, StopRequested):
                await append(self, story.ended())
            return await super().append(stream, subject, message, scope=scope, after=after)

    log, story = Late(), Story()
    await append(log, story.requested())
    assert await request_stop(log, SUBJECTS, stamp(), story.session, "late") == "it has ended already"
    assert isinstance(placed(await log.history("SESSIONS", SUBJECTS.session(story.session))).state, Ended)
