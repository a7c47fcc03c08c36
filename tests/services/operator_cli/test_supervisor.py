"""Child processes: in order, started again, stopped in reverse, and none left whatever they do."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from services.operator_cli.supervisor import Child, NotReadyError, Ready, Supervisor
from tests.support.running import ROOT


def gone(pid: int) -> bool:
    """Whether a process is over; one that nobody has waited for yet is."""
    try:
        return "State:\tZ" in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return True


def written(file: Path) -> Ready:
    async def ready() -> bool:
        return file.exists() and bool(file.read_text().strip())

    return ready


def shell(folder: Path, name: str, script: str, ready_seconds: float = 30.0) -> Child:
    """A child that writes its `name` into a file of that name, and then what the script says."""
    file = folder / name
    return Child(
        name=name,
        command=["sh", "-c", f"echo $$ > {file}; {script}"],
        ready=written(file),
        ready_seconds=ready_seconds,
    )


@pytest.fixture
async def supervised(tmp_path: Path) -> AsyncIterator[tuple[Supervisor, list[tuple[str, str]]]]:
    said: list[tuple[str, str]] = []
    supervisor = Supervisor(tmp_path / "logs", lambda name, what: said.append((name, what)))
    yield supervisor, said
    await supervisor.stop()


Supervised = tuple[Supervisor, list[tuple[str, str]]]


async def test_children_are_ready_one_after_the_other_and_stopped_in_reverse(
    supervised: Supervised, tmp_path: Path
) -> None:
    supervisor, said = supervised
    order = tmp_path / "order"
    script = f"trap 'echo {{0}} >> {order}; exit' TERM; while :; do sleep 0.05; done"
    for name in ("broker", "service", "hub"):
        await supervisor.start(shell(tmp_path, name, script.format(name)))
    pids = supervisor.pids()
    assert (list(pids), said) == (["broker", "service", "hub"], [])
    await supervisor.stop()
    assert order.read_text().split() == ["hub", "service", "broker"]
    assert all(gone(pid) for pid in pids.values())
    assert supervisor.pids() == {}


async def test_a_child_that_does_not_end_when_asked_is_killed(
    supervised: Supervised, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.operator_cli.supervisor.STOP_SECONDS", 0.3)
    supervisor, _ = supervised
    await supervisor.start(shell(tmp_path, "deaf", "trap '' TERM; while :; do sleep 0.05; done"))
    pid = supervisor.pids()["deaf"]
    await supervisor.stop()
    assert gone(pid)


async def test_children_of_a_child_go_with_it(supervised: Supervised, tmp_path: Path) -> None:
    supervisor, _ = supervised
    grandchild = tmp_path / "grandchild"
    await supervisor.start(
        Child(
            name="forks",
            command=["sh", "-c", f"sleep 600 & echo $! > {grandchild}; wait"],
            ready=written(grandchild),
        )
    )
    pid = int(grandchild.read_text())
    await supervisor.stop()
    async with asyncio.timeout(5):
        while not gone(pid):
            await asyncio.sleep(0.01)


async def test_what_crashes_is_started_again_with_a_growing_pause_until_it_is_ready(
    supervised: Supervised, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.operator_cli.supervisor.FIRST_PAUSE_SECONDS", 0.05)
    supervisor, said = supervised
    broken = tmp_path / "broken"
    file = tmp_path / "ready"
    script = f"if [ -e {broken} ]; then rm {broken}; exit 7; fi; echo $$ > {file}; exec sleep 600"
    await supervisor.start(Child(name="crashes", command=["sh", "-c", script], ready=written(file)))
    before = supervisor.pids()["crashes"]
    broken.touch()
    file.unlink()
    os.kill(before, signal.SIGKILL)
    async with asyncio.timeout(20):
        while ("crashes", "ready again") not in said:
            await asyncio.sleep(0.01)
    assert said == [
        ("crashes", "ended with -9; started again in 0.1 s"),
        ("crashes", "ended with 7; started again in 0.1 s"),
        ("crashes", "ready again"),
    ]
    assert supervisor.pids()["crashes"] == int(file.read_text()) != before


async def test_what_is_not_ready_in_its_time_is_told_with_the_end_of_its_log_and_still_stopped(
    supervised: Supervised,
) -> None:
    async def never() -> bool:
        return False

    supervisor, _ = supervised
    script = "for i in 1 2 3 4 5 6 7 8 9; do echo line $i; done; exec sleep 600"
    child = Child(name="slow", command=["sh", "-c", script], ready=never, ready_seconds=1.0)
    with pytest.raises(NotReadyError) as refused:
        await supervisor.start(child)
    assert str(refused.value) == "slow is not ready after 1 s: line 5 | line 6 | line 7 | line 8 | line 9"
    pid = supervisor.pids()["slow"]
    await supervisor.stop()
    assert gone(pid)


async def test_a_child_whose_port_another_answers_on_is_not_taken_for_ready(supervised: Supervised) -> None:
    """What looks ready is someone else when the child itself is over."""
    supervisor, _ = supervised
    begun: list[int] = []

    async def when_it_is_over() -> bool:
        async with asyncio.timeout(10):
            while not begun:
                begun.extend(supervisor.pids().values())
            while not gone(begun[0]):
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.05)  # until the loop has heard of it, too
        return True

    with pytest.raises(NotReadyError, match="late ended with 4: address in use"):
        await supervisor.start(
            Child(name="late", command=["sh", "-c", "echo address in use; exit 4"], ready=when_it_is_over)
        )


async def test_a_program_that_is_not_there_is_named(supervised: Supervised) -> None:
    async def never() -> bool:
        return False

    supervisor, _ = supervised
    with pytest.raises(NotReadyError, match="gone: /nowhere/program cannot be run: No such file"):
        await supervisor.start(Child(name="gone", command=["/nowhere/program"], ready=never))


async def test_logs_are_for_their_owner_and_secrets_are_not_on_the_command_line(
    supervised: Supervised, tmp_path: Path
) -> None:
    supervisor, _ = supervised
    child = shell(tmp_path, "quiet", "echo $TOKEN; exec sleep 600")
    child = Child(name="quiet", command=child.command, ready=child.ready, environment={"TOKEN": "canary"})
    await supervisor.start(child)
    log = tmp_path / "logs" / "quiet.log"
    async with asyncio.timeout(10):
        while "canary" not in log.read_text():
            await asyncio.sleep(0.01)
    assert log.stat().st_mode & 0o777 == 0o600
    assert log.parent.stat().st_mode & 0o777 == 0o700
    assert b"canary" not in Path(f"/proc/{supervisor.pids()['quiet']}/cmdline").read_bytes()
    assert supervisor.tail("quiet") == "canary"
    assert supervisor.tail("nobody") == "no log"


PROGRAM = """
import asyncio, sys
from pathlib import Path
from services.operator_cli.supervisor import Child, Supervisor

async def yes():
    return True

async def run():
    supervisor = Supervisor(Path(sys.argv[1]), lambda name, what: None)
    await supervisor.start(Child(name="child", command=["sleep", "600"], ready=yes))
    print(supervisor.pids()["child"], flush=True)
    await asyncio.Event().wait()

asyncio.run(run())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends children with their parent")
def test_children_end_with_a_supervisor_that_is_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PROGRAM, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as supervisor:
        assert supervisor.stdout is not None
        pid = int(supervisor.stdout.readline())
        supervisor.kill()
        supervisor.wait(10)
    until = time.monotonic() + 10
    while not gone(pid):
        assert time.monotonic() < until
        time.sleep(0.01)
