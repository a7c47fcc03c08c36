"""The keeper of a job's processes: nothing that a job started outlives it, whatever it did to get away."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from emulators.processes import STEP, Step, end_stray, started

PATH = {"PATH": "/usr/local/bin:/usr/bin:/bin"}
ESCAPES = "setsid sh -c 'sleep 300 & echo $! >escaped.new; mv escaped.new escaped; wait' & echo $$ >shell; {}"


@asynccontextmanager
async def step(folder: Path, script: str, grace_seconds: float = 5.0) -> AsyncIterator[Step]:
    running = await Step.begin(
        ["sh", "-c", script],
        folder=folder,
        environment=PATH,
        files=(None, folder / "stdout", folder / "stderr"),
        umask=0o077,
        grace_seconds=grace_seconds,
    )
    try:
        yield running
    finally:
        await running.stop(0.0)


async def written(file: Path) -> int:
    async with asyncio.timeout(20):
        while not file.exists() or not file.read_text().strip():
            await asyncio.sleep(0.01)
    return int(file.read_text())


async def until_gone(*pids: int) -> None:
    async with asyncio.timeout(20):
        while any(started(pid) for pid in pids):
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("script", "code"),
    [("exit 0", 0), ("exit 3", 3), ("kill -9 $$", 137), ("exec /nowhere/at-all", 127), ("exec /etc/passwd", 126)],
)
async def test_the_code_is_as_a_shell_counts_it(tmp_path: Path, script: str, code: int) -> None:
    async with step(tmp_path, script) as running:
        assert await running.wait() == code


async def test_what_is_not_there_cannot_be_run_and_says_so(tmp_path: Path) -> None:
    files = (None, tmp_path / "stdout", tmp_path / "stderr")
    running = await Step.begin(
        ["/nowhere"], folder=tmp_path, environment=PATH, files=files, umask=0o077, grace_seconds=1.0
    )
    assert await running.wait() == 127
    assert files[2].read_text() == "/nowhere: No such file or directory\n"
    assert files[2].stat().st_mode & 0o777 == 0o600


async def test_a_process_in_a_session_of_its_own_ends_with_the_job(tmp_path: Path) -> None:
    async with step(tmp_path, ESCAPES.format("while ! [ -e escaped ]; do :; done; exit 4")) as running:
        assert await running.wait() == 4
        assert started(await written(tmp_path / "escaped")) == ""


async def test_a_job_may_end_in_order_when_it_is_stopped(tmp_path: Path) -> None:
    script = "trap 'echo saved; exit 7' TERM; echo $$ >shell; while :; do sleep 0.01; done"
    async with step(tmp_path, script) as running:
        await written(tmp_path / "shell")
        assert await running.stop(5.0) == 7
        assert "saved\n" in (tmp_path / "stdout").read_text()


async def test_a_job_that_does_not_obey_is_killed_with_all_it_started(tmp_path: Path) -> None:
    async with step(tmp_path, "trap '' TERM; " + ESCAPES.format("sleep 300"), grace_seconds=0.1) as running:
        pids = [await written(tmp_path / "escaped"), await written(tmp_path / "shell")]
        assert await running.stop(0.1) == 137
        assert [started(pid) for pid in pids] == ["", ""]


async def test_whoever_is_stopped_at_once_is_gone_at_once(tmp_path: Path) -> None:
    for _ in range(10):
        async with step(tmp_path, "sleep 300") as running:
            assert await running.stop(5.0) in (128 + signal.SIGTERM, 128 + signal.SIGKILL)


async def test_signals_are_as_a_login_shell_has_them(tmp_path: Path) -> None:
    async with step(tmp_path, "grep -E '^Sig(Blk|Ign)' /proc/self/status") as running:
        assert await running.wait() == 0
    masks = {int(line.split()[1], 16) for line in (tmp_path / "stdout").read_text().splitlines()}
    the_threads_librarys_own = 0b11 << 31  # signals 32 and 33, which no program sets (signal(7), nptl(7))
    assert {mask & ~the_threads_librarys_own for mask in masks} == {0}


async def test_the_death_of_the_site_ends_everything(tmp_path: Path) -> None:
    parent = (
        "import subprocess, sys, os\n"
        f"subprocess.Popen([sys.executable, '-I', '-S', {STEP!r}, str(os.getpid()), '5', *sys.argv[1:]]).wait()"
    )
    script = "trap '' TERM; " + ESCAPES.format("sleep 300")
    with subprocess.Popen([sys.executable, "-c", parent, "sh", "-c", script], cwd=tmp_path) as site:
        pids = [await written(tmp_path / "escaped"), await written(tmp_path / "shell")]
        site.send_signal(signal.SIGKILL)
    await until_gone(*pids)


async def test_a_keeper_left_behind_is_ended_but_no_other_process_with_its_id(tmp_path: Path) -> None:
    async with step(tmp_path, ESCAPES.format("sleep 300")) as running:
        escaped = await written(tmp_path / "escaped")
        await end_stray(running.pid, "1")
        await end_stray(0, "")
        assert started(running.pid) == running.started
        await end_stray(running.pid, running.started)
        assert (started(running.pid), started(escaped)) == ("", "")


def test_a_process_that_is_not_there_has_no_beginning() -> None:
    assert started(2**22 + 1) == ""
    assert int(started(os.getpid())) > 0
