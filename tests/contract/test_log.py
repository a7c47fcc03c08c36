"""One file of scenarios for the log in memory and the log on a real JetStream: what services rely on holds on both."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from schemas.base import Message
from schemas.session import SessionEvent, StartRequested, StopRequested
from schemas.subjects import Subjects
from services._runtime.log import Bucket, ConflictError, Delivery, KeyTakenError, Log, Recorded
from tests.support.samples import Story, stamp

SUBJECTS = Subjects()
STAMP = stamp()


async def append(log: Log, event: SessionEvent, after: int) -> int:
    stamped = STAMP(event, after=after, cause=None)
    return await log.append(
        "SESSIONS", SUBJECTS.session_event(stamped), stamped, scope=SUBJECTS.session(event.session), after=after
    )


async def until(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)


async def test_an_append_after_the_last_sequence_is_taken(log: Log) -> None:
    story, other = Story(), Story()
    first = await append(log, story.requested(), 0)
    await append(log, other.requested(), 0)
    second = await append(log, story.admitted(), first)
    history = await log.history("SESSIONS", SUBJECTS.session(story.session))
    assert [each.sequence for each in history] == [first, second]
    assert [type(each.message).__name__ for each in history] == ["StartRequested", "StartAdmitted"]


async def test_an_append_after_an_older_sequence_is_refused_with_what_is_there(log: Log) -> None:
    story = Story()
    first = await append(log, story.requested(), 0)
    second = await append(log, story.stop(), first)
    with pytest.raises(ConflictError) as refused:
        await append(log, story.admitted(), first)
    assert [each.sequence for each in refused.value.history] == [first, second]
    assert len(await log.history("SESSIONS", SUBJECTS.session(story.session))) == 2


async def test_the_same_append_repeated_is_found_and_not_doubled(log: Log) -> None:
    story = Story()
    first = await append(log, story.requested(), 0)
    assert await append(log, story.requested(), 0) == first
    second = await append(log, story.admitted(), first)
    assert await append(log, story.requested(), 0) == first
    assert await append(log, story.admitted(), first) == second


async def test_of_two_that_append_at_once_one_wins(log: Log) -> None:
    story = Story()
    first = await append(log, story.requested(), 0)
    results = await asyncio.gather(
        append(log, story.admitted(), first), append(log, story.stop(), first), return_exceptions=True
    )
    assert sorted(type(each).__name__ for each in results) == ["ConflictError", "int"]


async def test_the_history_of_an_unknown_session_is_empty(log: Log) -> None:
    assert await log.history("SESSIONS", SUBJECTS.session(Story().session)) == []


async def test_a_follower_sees_what_was_and_what_comes_in_order(log: Log) -> None:
    seen: list[Recorded] = []
    stories = [Story() for _ in range(5)]
    for story in stories[:3]:
        await append(log, story.requested(), 0)
    following = await log.follow("SESSIONS", [SUBJECTS.sessions(hub="main")], seen.append)
    assert len(seen) == 3
    for story in stories[3:]:
        await append(log, story.requested(), 0)
    await until(lambda: len(seen) == 5)
    assert [each.sequence for each in seen] == [1, 2, 3, 4, 5]
    await following.close()


async def test_a_follower_sees_only_what_its_filters_select(log: Log) -> None:
    seen: list[Message] = []
    following = await log.follow(
        "SESSIONS", [SUBJECTS.sessions(event=StopRequested)], lambda each: seen.append(each.message)
    )
    story = Story()
    await append(log, story.stop(), await append(log, story.requested(), 0))
    await until(lambda: len(seen) == 1)
    assert isinstance(seen[0], StopRequested)
    await following.close()


async def test_each_message_goes_to_one_replica_until_acknowledged(log: Log) -> None:
    taken: list[tuple[str, int]] = []

    def replica(name: str) -> Callable[[Delivery], object]:
        async def deliver(delivery: Delivery) -> None:
            taken.append((name, delivery.sequence))
            await delivery.acknowledge()

        return deliver

    filters = [SUBJECTS.sessions(event=StartRequested)]
    one = await log.consume("svc", "SESSIONS", filters, replica("one"), ack_wait_seconds=5)  # type: ignore[arg-type]
    two = await log.consume("svc", "SESSIONS", filters, replica("two"), ack_wait_seconds=5)  # type: ignore[arg-type]
    for _ in range(20):
        story = Story()
        await append(log, story.stop(), await append(log, story.requested(), 0))
    await until(lambda: len(taken) == 20)
    assert sorted(sequence for _, sequence in taken) == list(range(1, 41, 2))
    await one.close()
    await two.close()


async def test_a_place_in_the_log_is_durable(log: Log) -> None:
    taken: list[int] = []

    async def deliver(delivery: Delivery) -> None:
        taken.append(delivery.sequence)
        await delivery.acknowledge()

    filters = [SUBJECTS.sessions()]
    first = await log.consume("svc", "SESSIONS", filters, deliver, ack_wait_seconds=5)
    await append(log, Story().requested(), 0)
    await until(lambda: taken == [1])
    await first.close()
    await append(log, Story().requested(), 0)
    second = await log.consume("svc", "SESSIONS", filters, deliver, ack_wait_seconds=5)
    await until(lambda: taken == [1, 2])
    await second.close()


async def test_a_key_is_created_once_and_updated_by_revision(bucket: Bucket) -> None:
    assert await bucket.get("a.b") is None
    first = await bucket.create("a.b", b"1")
    with pytest.raises(KeyTakenError):
        await bucket.create("a.b", b"2")
    second = await bucket.update("a.b", b"2", first)
    with pytest.raises(KeyTakenError):
        await bucket.update("a.b", b"3", first)
    assert await bucket.get("a.b") == (b"2", second)
    assert await bucket.keys() == ["a.b"]
    await bucket.delete("a.b")
    await bucket.delete("never-there")
    assert await bucket.get("a.b") is None
    assert await bucket.keys() == []
    await bucket.create("a.b", b"4")
