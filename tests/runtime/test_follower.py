"""The follower and the consumer on a real broker that is killed, hangs or forgets them: nothing missed or doubled."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from schemas.session import SessionEvent, StartRequested
from schemas.subjects import Subjects
from services._runtime import topology
from services._runtime.errors import TransientError
from services._runtime.jetstream import JetStreamLog
from services._runtime.log import Delivery, Recorded
from services._runtime.nats_client import QuickClient
from services._runtime.settings import Retention
from tests.support.broker import NatsServer, nats_server
from tests.support.samples import Story, stamp

SUBJECTS = Subjects()
ALL = [SUBJECTS.sessions()]


@asynccontextmanager
async def opened(server: NatsServer) -> AsyncIterator[JetStreamLog]:
    """A log on a connection of its own that reconnects as a service's does."""
    logs: list[JetStreamLog] = []

    async def reconnected() -> None:
        for log in logs:
            log.reconnected()

    async def ignored(_error: Exception) -> None:
        """The broker is away on purpose."""

    client = QuickClient()
    await client.connect(
        server.url, reconnect_time_wait=0.05, max_reconnect_attempts=-1, reconnected_cb=reconnected, error_cb=ignored
    )
    await topology.apply(client.jetstream(), SUBJECTS, Retention())
    logs.append(JetStreamLog(client, SUBJECTS))
    try:
        yield logs[0]
    finally:
        await client.close()


async def append(log: JetStreamLog, event: SessionEvent, after: int = 0) -> int:
    """Appends, however often the broker is away meanwhile."""
    stamped = stamp()(event, after=after, cause=None)
    scope = SUBJECTS.session(event.session)
    while True:
        try:
            return await log.append("SESSIONS", SUBJECTS.session_event(stamped), stamped, scope=scope, after=after)
        except TransientError:
            continue


async def until(condition: Callable[[], bool], seconds: float = 15.0) -> float:
    """The seconds it took."""
    begun = asyncio.get_running_loop().time()
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)
    return asyncio.get_running_loop().time() - begun


async def beyond(sequences: list[int], sequence: int, seconds: float) -> float:
    """Waits for something after a sequence; the seconds it took."""
    return await until(lambda: bool(sequences) and sequences[-1] > sequence, seconds)


async def test_a_broker_killed_under_load_costs_a_moment_and_no_message(tmp_path: Path) -> None:
    observed: list[int] = []
    taken: list[int] = []

    async def deliver(delivery: Delivery) -> None:
        taken.append(delivery.sequence)
        await delivery.acknowledge()

    async with nats_server(tmp_path) as server, opened(server) as reader, opened(server) as writer:
        following = await reader.follow("SESSIONS", ALL, lambda recorded: observed.append(recorded.sequence))
        consuming = await reader.consume("svc", "SESSIONS", ALL, deliver, ack_wait_seconds=2.0)
        enough = asyncio.Event()

        async def write() -> int:
            last = 0
            while not enough.is_set():
                last = await append(writer, Story().requested())
            return last

        writing = asyncio.create_task(write())
        for _ in range(2):
            await beyond(observed, (observed[-1] if observed else 0) + 50, 15.0)
            await beyond(taken, taken[-1] if taken else 0, 15.0)
            server.stop(signal.SIGKILL)
            await server.start()
            reached = max(observed[-1], taken[-1])
            await beyond(observed, reached, 5.0)
            await beyond(taken, reached, 5.0)
        enough.set()
        last = await writing
        await until(lambda: observed[-1] == last)
        assert observed == list(range(1, last + 1)), "in order, each once"
        await until(lambda: set(taken) == set(observed))
        await following.close()
        await consuming.close()


async def test_a_follower_whose_consumer_the_broker_forgot_comes_back_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services._runtime.follower.SILENCE_SECONDS", 1.5)
    seen: list[int] = []
    async with nats_server(tmp_path) as server, opened(server) as log:
        await append(log, Story().requested())
        following = await log.follow("SESSIONS", ALL, lambda recorded: seen.append(recorded.sequence))
        [consumer] = await log.js.consumers_info("SESSIONS")
        await log.js.delete_consumer("SESSIONS", consumer.name)
        await append(log, Story().requested())
        await until(lambda: seen == [1, 2])
        await following.close()


def stopped(pid: int) -> bool:
    """Whether every thread of a process has come to its halt, which the signal does not wait for."""
    states = [(task / "stat").read_text().rpartition(")")[2].split()[0] for task in Path(f"/proc/{pid}/task").iterdir()]
    return set(states) == {"T"}


async def test_a_broker_that_hangs_for_a_while_costs_no_message(tmp_path: Path) -> None:
    """SIGSTOP: the connection stays up and nothing comes, so only silence tells."""
    seen: list[int] = []
    async with nats_server(tmp_path) as server, opened(server) as log:
        following = await log.follow("SESSIONS", ALL, lambda recorded: seen.append(recorded.sequence))
        await append(log, Story().requested())
        await until(lambda: seen == [1])
        assert server.process is not None
        server.process.send_signal(signal.SIGSTOP)
        await until(lambda: stopped(server.process.pid))
        appending = asyncio.create_task(append(log, Story().requested()))
        await asyncio.wait({appending}, timeout=0.5)
        assert not appending.done()
        server.process.send_signal(signal.SIGCONT)
        assert await appending == 2
        await until(lambda: seen == [1, 2])
        await following.close()


async def test_a_follower_that_is_closed_leaves_nothing_at_the_broker(tmp_path: Path) -> None:
    seen: list[Recorded] = []
    async with nats_server(tmp_path) as server, opened(server) as log:
        following = await log.follow("SESSIONS", ALL, seen.append)
        assert len(await log.js.consumers_info("SESSIONS")) == 1
        await following.close()
        async with asyncio.timeout(5):
            while await log.js.consumers_info("SESSIONS"):
                await asyncio.sleep(0.01)
        await append(log, Story().requested())
        assert seen == []


async def test_a_long_log_is_read_whole_before_follow_returns(tmp_path: Path) -> None:
    seen: list[int] = []
    async with nats_server(tmp_path, sync="2m") as server, opened(server) as log:
        stories = [Story() for _ in range(1500)]
        await asyncio.gather(*[append(log, story.requested()) for story in stories])
        following = await log.follow("SESSIONS", ALL, lambda recorded: seen.append(recorded.sequence))
        assert seen == list(range(1, 1501))
        await following.close()
        nothing = await log.follow("SESSIONS", [SUBJECTS.sessions(hub="elsewhere")], lambda recorded: None)
        await nothing.close()


async def test_a_message_this_build_cannot_read_is_passed_over_and_the_next_is_seen(tmp_path: Path) -> None:
    seen: list[Recorded] = []
    async with nats_server(tmp_path) as server, opened(server) as log:
        subject = SUBJECTS.session_event(Story().requested())
        for body in (b"{", json.dumps({"type": "start-requested.v99"}).encode(), b""):
            await log.js.publish(subject, body)
        following = await log.follow("SESSIONS", ALL, seen.append)
        await append(log, Story().requested())
        await until(lambda: len(seen) == 1)
        assert (seen[0].sequence, type(seen[0].message)) == (4, StartRequested)
        await following.close()


async def test_what_is_in_hand_at_the_end_is_finished_or_handed_back(tmp_path: Path) -> None:
    begun, finish = asyncio.Event(), asyncio.Event()
    taken: list[int] = []

    async def slow(delivery: Delivery) -> None:
        begun.set()
        await finish.wait()
        taken.append(delivery.sequence)
        await delivery.acknowledge()

    async def quick(delivery: Delivery) -> None:
        taken.append(delivery.sequence)
        await delivery.acknowledge()

    async with nats_server(tmp_path) as server, opened(server) as log:
        await append(log, Story().requested())
        first = await log.consume("svc", "SESSIONS", ALL, slow, ack_wait_seconds=30.0)
        await begun.wait()
        closing = asyncio.create_task(first.close())
        await asyncio.sleep(0)
        finish.set()
        await closing
        assert taken == [1]
        begun.clear()
        finish.clear()
        await append(log, Story().requested())
        second = await log.consume("svc", "SESSIONS", ALL, slow, ack_wait_seconds=30.0)
        await begun.wait()
        await second.close(patience_seconds=0.05)  # type: ignore[call-arg]
        third = await log.consume("svc", "SESSIONS", ALL, quick, ack_wait_seconds=30.0)
        await until(lambda: taken == [1, 2], 10.0)  # handed back, not left to the acknowledgement wait
        await third.close()
