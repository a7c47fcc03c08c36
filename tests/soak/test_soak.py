"""Load that must slow the right thing and lose nothing: many lives, a slow replica, floods, a full disk."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from schemas.lifecycle import Ended
from services._runtime.tasks import end
from tests.soak.__main__ import run
from tests.soak.stage import SUBJECTS, many, stage
from tests.support.samples import Story

SESSIONS = int(os.environ.get("FARLAB_SOAK_SESSIONS", "150"))
"""The budget; `.ci/run` gives more, and only then do slopes mean much."""
pytestmark = pytest.mark.timeout(1800)


async def test_many_lives_leave_memory_files_and_lag_bounded(tmp_path: Path) -> None:
    measured = await run(tmp_path, SESSIONS, at_once=40)
    assert measured.ended == SESSIONS
    assert measured.problems() == [], measured.line()


async def test_a_service_that_hangs_holds_up_only_what_needs_it_and_catches_up(tmp_path: Path) -> None:
    async with stage(tmp_path) as here:
        ended: list[Ended] = []
        here.signal("hpc-launcher", signal.SIGSTOP)
        living = asyncio.create_task(many(here, 60, 60, ended.append))
        try:
            async with asyncio.timeout(60):
                # Accounts admit although the launcher hangs: what waits is in the log, not in anybody's memory.
                while (await here.lag())["hpc-launcher"] < 60 or (await here.lag())["accounts"]:
                    await asyncio.sleep(0.1)
            assert ended == []
            here.signal("hpc-launcher", signal.SIGCONT)
            async with asyncio.timeout(120):
                await living
            await here.idle(60)
        finally:
            here.signal("hpc-launcher", signal.SIGCONT)
            await end([living])
        assert Counter(each.end.outcome for each in ended) == {"stopped": 60}


async def test_a_flood_of_bad_and_huge_messages_is_buried_and_sessions_go_on(tmp_path: Path) -> None:
    bodies = [b"", b"\xff" * 100, b"[" * 50_000, b'{"type": "stop-requested.v1"}', b'"' + b"x" * 900_000 + b'"']
    async with stage(tmp_path) as here:
        ended: list[Ended] = []
        living = asyncio.create_task(many(here, 20, 5, ended.append))
        flood = 300
        for number in range(flood):
            subject = f"{SUBJECTS.root}.session.main.demo-hpc.{Story().session}.stop-requested"
            await here.log.js.publish(subject, bodies[number % len(bodies)])
        async with asyncio.timeout(120):
            await living
        await here.idle(120)
        assert Counter(each.end.outcome for each in ended) == {"stopped": 20}
        dead = (await here.log.js.stream_info("DEAD_LETTERS")).state.messages
        assert dead == 2 * flood, "accounts and the launcher each keep every one, whole"


async def test_a_flood_of_rejected_starts_keeps_nobody_out(tmp_path: Path) -> None:
    async with stage(tmp_path) as here:
        ended: list[Ended] = []
        strangers = [Story(user=f"stranger-{number}") for number in range(200)]
        flooding = [asyncio.create_task(here.live(story)) for story in strangers]
        try:
            async with asyncio.timeout(120):
                await many(here, 10, 10, ended.append)
                rejected = await asyncio.gather(*flooding)
        finally:
            await end(flooding)
        assert Counter(each.end.outcome for each in ended) == {"stopped": 10}
        assert Counter(each.end.outcome for each in rejected) == {"rejected": len(strangers)}
        await here.idle(60)


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[None]:
    """A disk of that size; skips where this user may not mount one."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


async def test_a_full_disk_makes_everybody_wait_and_nothing_is_lost(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    with small_disk(disk, "24m"):
        async with stage(tmp_path, store=disk) as here:
            ended: list[Ended] = []
            await many(here, 5, 5, ended.append)
            filler = disk / "filler"
            with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
                while True:
                    file.write(b"x" * 65_536)
            living = asyncio.create_task(many(here, 10, 10, ended.append))
            await asyncio.sleep(3)
            assert len(ended) < 15, "the disk is full, and sessions end all the same"
            filler.unlink()
            here.broker.stop(signal.SIGKILL)  # nats-server takes JetStream out of service until it is started again
            await here.broker.start()
            async with asyncio.timeout(120):
                await living
            await here.idle(60)
            assert Counter(each.end.outcome for each in ended) == {"stopped": 15}
            assert await here.vault.names() == []
