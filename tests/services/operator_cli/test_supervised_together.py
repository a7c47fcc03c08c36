"""The supervisor's children together: who is told of a restart, who is waited for, and for how long."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from services.operator_cli import supervisor as supervising
from services.operator_cli.supervisor import Child, Ready, Supervisor
from services.operator_cli.up import left_over

Said = list[tuple[str, str]]


def writes(file: Path) -> Ready:
    """Ready once the program has written its process id."""

    async def ready() -> bool:
        return file.exists() and bool(file.read_text())

    return ready


def sleeper(folder: Path, name: str, before: str = "") -> Child:
    """A program that writes its process id, and sleeps in a process of its own."""
    file = folder / f"{name}.pid"
    script = f"{before} echo $$ >> {file}; sleep 600 & wait"
    return Child(name=name, command=["sh", "-c", script], ready=writes(file))


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def until_said(said: Said, wanted: tuple[str, str]) -> None:
    async with asyncio.timeout(20):
        while not any(name == wanted[0] and wanted[1] in what for name, what in said):
            await asyncio.sleep(0.02)


@pytest.fixture
def said() -> Said:
    return []


@pytest.fixture
def supervisor(tmp_path: Path, said: Said) -> Supervisor:
    return Supervisor(tmp_path / "logs", lambda name, what: said.append((name, what)))


async def test_a_crash_is_said_and_mended_and_others_are_told(
    tmp_path: Path, supervisor: Supervisor, said: Said
) -> None:
    told: list[str] = []

    async def others_know() -> bool:
        told.append("asked")
        return len(told) > 1

    crashing = sleeper(tmp_path, "crashing")
    await supervisor.start(
        Child(name="crashing", command=crashing.command, ready=crashing.ready, restarted=others_know)
    )
    await supervisor.start(sleeper(tmp_path, "steady"))
    before = supervisor.pids()
    os.kill(before["crashing"], signal.SIGKILL)
    await until_said(said, ("crashing", "ready again"))
    after = supervisor.pids()
    assert after["steady"] == before["steady"]
    assert after["crashing"] != before["crashing"]
    assert len(told) == 2
    assert ("crashing", "ended with -9; started again in 0.5 s") in said
    await supervisor.stop()
    assert not any(lives(pid) for pid in (*before.values(), *after.values()))


async def test_all_together_have_one_time_to_end(
    tmp_path: Path, supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervising, "STOP_ALL_SECONDS", 0.3)
    names = ["a", "b", "c", "d"]
    await supervisor.start_all([sleeper(tmp_path, name, "trap '' TERM;") for name in names])
    async with asyncio.timeout(supervising.STOP_SECONDS):
        await supervisor.stop()
    assert list(left_over(tmp_path)) == []
