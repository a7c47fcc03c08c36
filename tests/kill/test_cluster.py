"""Three brokers lose the leader of the log under load: what was acknowledged is there, once, and in order."""

from __future__ import annotations

import asyncio
import contextlib
import time
from pathlib import Path

import nats
import pytest

from schemas.base import EventId
from schemas.session import SessionEvent
from schemas.subjects import Subjects
from services._runtime import topology
from services._runtime.errors import TransientError
from services._runtime.jetstream import JetStreamLog
from services._runtime.log import Recorded
from services._runtime.settings import Retention
from services._runtime.tasks import end
from tests.support.cluster import Cluster, cluster
from tests.support.samples import Story, stamp

SUBJECTS = Subjects()
LEADERS_KILLED = 2


async def opened(nodes: Cluster) -> JetStreamLog:
    logs: list[JetStreamLog] = []

    async def reconnected() -> None:
        for log in logs:
            log.reconnected()

    async def ignored(_error: Exception) -> None:
        """A node is away on purpose."""

    client = await nats.connect(
        nodes.urls, reconnect_time_wait=0.05, max_reconnect_attempts=-1, reconnected_cb=reconnected, error_cb=ignored
    )
    logs.append(JetStreamLog(client, SUBJECTS))
    return logs[0]


async def leader(log: JetStreamLog) -> str:
    """Who leads the stream, once somebody does."""
    async with asyncio.timeout(60):
        while True:
            with contextlib.suppress(Exception):
                told = (await log.js.stream_info("SESSIONS")).cluster
                if told is not None and told.leader:
                    return str(told.leader)
            await asyncio.sleep(0.1)


@pytest.mark.timeout(300)
async def test_a_leader_that_is_killed_costs_a_pause_and_no_event(tmp_path: Path) -> None:
    async with cluster(tmp_path) as nodes:
        log, reader = await opened(nodes), await opened(nodes)
        async with asyncio.timeout(60):
            while True:
                try:
                    await topology.apply(log.js, SUBJECTS, Retention(replicas=3))
                    break
                except Exception:
                    await asyncio.sleep(0.2)
        seen: list[Recorded] = []
        following = await reader.follow("SESSIONS", [SUBJECTS.sessions()], seen.append)
        acknowledged: list[tuple[int, EventId]] = []
        pauses: list[float] = []
        enough = asyncio.Event()

        async def write() -> None:
            last = time.monotonic()
            while not enough.is_set():
                story, after = Story(), 0
                events: list[SessionEvent] = [story.requested(), story.admitted(), story.created()]
                for event in events:
                    stamped = stamp()(event, after=after, cause=None)
                    subject, scope = SUBJECTS.session_event(stamped), SUBJECTS.session(story.session)
                    while True:
                        try:
                            after = await log.append("SESSIONS", subject, stamped, scope=scope, after=after)
                        except TransientError:
                            continue
                        break
                    acknowledged.append((after, stamped.id))
                    pauses.append(time.monotonic() - last)
                    last = time.monotonic()

        writing = asyncio.create_task(write())
        try:
            for _ in range(LEADERS_KILLED):
                before = len(acknowledged)
                async with asyncio.timeout(60):
                    while len(acknowledged) < before + 60:
                        await asyncio.sleep(0.01)
                fallen = await leader(reader)
                nodes.kill(fallen)
                before = len(acknowledged)
                async with asyncio.timeout(60):
                    while len(acknowledged) < before + 60:
                        await asyncio.sleep(0.01)
                nodes.start(fallen)
            enough.set()
            async with asyncio.timeout(60):
                await writing
                while len(seen) < len(acknowledged):
                    await asyncio.sleep(0.05)
            assert [(each.sequence, each.message.id) for each in seen] == acknowledged
            assert len({event for _, event in acknowledged}) == len(acknowledged)
            assert max(pauses) < 30
        finally:
            await end([writing])
            await following.close()
            await log.client.close()
            await reader.client.close()
