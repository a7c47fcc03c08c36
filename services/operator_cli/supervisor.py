"""Runs child processes in order, says when each is ready, restarts what crashes, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

import msgspec

PR_SET_PDEATHSIG = 1
STOP_SECONDS = 8.0
FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 20.0

Ready = Callable[[], Awaitable[bool]]
Say = Callable[[str, str], None]
"""Called with a child's name and what happened to it."""


class Child(msgspec.Struct, frozen=True, kw_only=True):
    """A program to run, and how to see that it is ready."""

    name: str
    command: Sequence[str]
    ready: Ready
    environment: Mapping[str, str] = msgspec.field(default_factory=dict)
    ready_seconds: float = 60.0


class NotReadyError(Exception):
    """A child did not become ready; the text has the end of its log."""


class Supervisor:
    """The children of one `farlab up`."""

    def __init__(self, logs: Path, say: Say) -> None:
        self._logs = logs
        self._say = say
        self._running: dict[str, asyncio.subprocess.Process] = {}
        self._keepers: dict[str, asyncio.Task[None]] = {}
        self._order: list[str] = []
        self._stopping = False
        logs.mkdir(parents=True, exist_ok=True, mode=0o700)

    def pids(self) -> dict[str, int]:
        """The process id of every child that runs."""
        return {name: process.pid for name, process in self._running.items()}

    async def start(self, child: Child) -> float:
        """Starts a child; returns the seconds until it was ready. Raises NotReadyError."""
        loop = asyncio.get_running_loop()
        begun = loop.time()
        process = await self._spawn(child)
        self._order.append(child.name)
        while not await child.ready():
            if process.returncode is not None:
                raise NotReadyError(f"{child.name} ended with {process.returncode}: {self.tail(child.name)}")
            if loop.time() - begun > child.ready_seconds:
                raise NotReadyError(
                    f"{child.name} is not ready after {child.ready_seconds:.0f} s: {self.tail(child.name)}"
                )
            await asyncio.sleep(0.03)
        self._keepers[child.name] = asyncio.create_task(self._keep(child, process))
        return loop.time() - begun

    async def stop(self) -> None:
        """Stops all children in reverse order; what does not stop in time is killed."""
        self._stopping = True
        for name in reversed(self._order):
            if (keeper := self._keepers.pop(name, None)) is not None:
                keeper.cancel()
            if (process := self._running.pop(name, None)) is not None:
                await _end(process)
        self._order.clear()

    def kill(self, name: str) -> None:
        """Kills a child with SIGKILL, as a crash would; it is started again."""
        self._running[name].kill()

    def tail(self, name: str, lines: int = 5) -> str:
        """The last lines of a child's log, in one line."""
        try:
            text = (self._logs / f"{name}.log").read_text(errors="replace")
        except OSError:
            return "no log"
        return " | ".join(text.strip().splitlines()[-lines:]) or "nothing in its log"

    async def _spawn(self, child: Child) -> asyncio.subprocess.Process:
        log = os.open(self._logs / f"{child.name}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            process = await asyncio.create_subprocess_exec(
                *child.command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **child.environment},
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )
        finally:
            os.close(log)
        self._running[child.name] = process
        return process

    async def _keep(self, child: Child, process: asyncio.subprocess.Process) -> None:
        pause = FIRST_PAUSE_SECONDS
        while True:
            code = await process.wait()
            if self._stopping:
                return
            self._say(child.name, f"ended with {code}; started again in {pause:.1f} s")
            _kill_group(process.pid)
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE_SECONDS)
            process = await self._spawn(child)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(child.ready_seconds):
                    while process.returncode is None and not await child.ready():
                        await asyncio.sleep(0.1)
                    if process.returncode is None:
                        self._say(child.name, "ready again")
                        pause = FIRST_PAUSE_SECONDS


def _die_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_SECONDS):
                await process.wait()
    _kill_group(process.pid)
    if process.returncode is None:
        await process.wait()
