"""What this build cannot read holds its place in the log: nobody appends before it, and nobody waits for ever."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from schemas.lifecycle import Admitted, SessionState
from schemas.session import AnySessionEvent, SessionEvent, StartAdmitted, StartRequested
from schemas.subjects import Subjects
from services._runtime.consumer import SessionConsumer
from services._runtime.decider import Emit, Perform
from services._runtime.errors import PermanentError
from services._runtime.jetstream import JetStreamLog
from services._runtime.log import ConflictError, Log, Recorded, Unreadable
from services._runtime.memory import MemoryLog
from services._runtime.view import SessionView, placed
from tests.support.samples import HUB, SYSTEM, Story, stamp

SUBJECTS = Subjects()
OF_TOMORROW = b'{"type":"start-blessed.v1","id":"x","source":"farlab/next"}'


async def publish(log: Log, story: Story, body: bytes) -> None:
    """As any client of the broker can."""
    subject = f"{SUBJECTS.root}.session.{HUB}.{SYSTEM}.{story.session}.start-blessed"
    if isinstance(log, MemoryLog):
        log.publish("SESSIONS", subject, body)
    else:
        assert isinstance(log, JetStreamLog)
        await log.js.publish(subject, body)


async def append(log: Log, event: SessionEvent, after: int) -> int:
    stamped = stamp()(event, after=after, cause=None)
    scope = SUBJECTS.session(event.session)
    return await log.append("SESSIONS", SUBJECTS.session_event(stamped), stamped, scope=scope, after=after)


@pytest.mark.parametrize("body", [OF_TOMORROW, b"not json", b"", b"\xff\xfe"])
async def test_a_history_says_where_something_unreadable_stands(log: Log, body: bytes) -> None:
    story = Story()
    first = await append(log, story.requested(), 0)
    await publish(log, story, body)
    history = await log.history("SESSIONS", SUBJECTS.session(story.session))
    assert [type(each.message) for each in history] == [StartRequested, Unreadable]
    with pytest.raises(ConflictError) as refused:
        await append(log, story.admitted(), first)
    assert refused.value.history[-1].sequence == first + 1
    assert placed(refused.value.history).sequence == first + 1
    assert await append(log, story.admitted(), first + 1) == first + 2


async def test_a_follower_passes_over_it(log: Log) -> None:
    story, seen = Story(), list[Recorded]()
    first = await append(log, story.requested(), 0)
    await publish(log, story, OF_TOMORROW)
    await append(log, story.admitted(), first + 1)
    following = await log.follow("SESSIONS", [SUBJECTS.sessions()], seen.append)
    assert [each.sequence for each in seen] == [first, first + 2]
    await following.close()


def decide(state: SessionState, event: AnySessionEvent | None) -> list[Emit | Perform[None]]:
    request = getattr(state, "request", None)
    if request is None or isinstance(state, Admitted):
        return []
    return [Emit(StartAdmitted(hub=HUB, system=SYSTEM, session=request.session))]


async def no_act(command: None) -> Sequence[SessionEvent]:
    return []


def no_words(state: SessionState, error: PermanentError) -> list[Emit | Perform[None]]:
    return []


async def test_a_handler_goes_on_after_a_message_of_tomorrow(log: Log) -> None:
    """With the view at the message before it, every append would be refused, and for ever."""
    story, view = Story(), SessionView()
    following = await view.follow(log, [SUBJECTS.sessions()])
    consumer: SessionConsumer[None] = SessionConsumer(
        log=log, subjects=SUBJECTS, view=view, stamp=stamp(), decide=decide, perform=no_act, give_up=no_words
    )
    await append(log, story.requested(), 0)
    await publish(log, story, OF_TOMORROW)
    async with asyncio.timeout(10):
        await consumer.nudge(story.session)
    history = await log.history("SESSIONS", SUBJECTS.session(story.session))
    assert [type(each.message) for each in history] == [StartRequested, Unreadable, StartAdmitted]
    assert isinstance(placed(history).state, Admitted)
    async with asyncio.timeout(10):
        while not ((known := view.get(story.session)) and isinstance(known.state, Admitted)):
            await asyncio.sleep(0.005)
    await following.close()
