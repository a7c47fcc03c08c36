"""Three brokers lose the leader of the log under load: what was acknowledged is there, once, and in order."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import pytest

from schemas.subjects import Subjects
from services._runtime import topology
from services._runtime.jetstream import JetStreamLog
from services._runtime.log import Recorded
from services._runtime.settings import Retention
from services._runtime.tasks import end
from tests.support.cluster import cluster
from tests.support.writer import Writer, reconnecting

SUBJECTS = Subjects()
LEADERS_KILLED = 2


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
        log, reader = await reconnecting(nodes.urls, SUBJECTS), await reconnecting(nodes.urls, SUBJECTS)
        async with asyncio.timeout(60):
            while True:
                try:
                    await topology.apply(log.js, SUBJECTS, Retention(replicas=3))
                    break
                except Exception:
                    await asyncio.sleep(0.2)
        seen: list[Recorded] = []
        following = await reader.follow("SESSIONS", [SUBJECTS.sessions()], seen.append)
        writer = Writer(log, SUBJECTS)
        writing = asyncio.create_task(writer.write())
        try:
            for _ in range(LEADERS_KILLED):
                await writer.more()
                fallen = await leader(reader)
                nodes.kill(fallen)
                await writer.more()
                nodes.start(fallen)
            await writer.enough(writing, seen)
            assert max(writer.pauses) < 30
        finally:
            await end([writing])
            await following.close()
            await log.client.close()
            await reader.client.close()
