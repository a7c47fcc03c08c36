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

from services._runtime.tasks import end

PR_SET_PDEATHSIG = 1
STOP_SECONDS = 8.0
"""How long one child may take to end by itself."""
STOP_ALL_SECONDS = 13.0
"""How long all of them may take together, before the rest is killed."""
FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 20.0
LOOK_SECONDS = 0.03

_libc = ctypes.CDLL(None) if sys.platform == "linux" else None
# Loaded here because a child between fork and exec must not load libraries: another thread may hold the loader's lock.

Ready = Callable[[], Awaitable[bool]]
Say = Callable[[str, str], None]
"""Called with a child's name and what happened to it."""


class Child(msgspec.Struct, frozen=True, kw_only=True):
    """A program to run, how to see that it is ready, and what others must be told when it was started again."""

    name: str
    command: Sequence[str]
    ready: Ready
    environment: Mapping[str, str] = msgspec.field(default_factory=dict)
    ready_seconds: float = 60.0
    restarted: Ready | None = None


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
        self._names: list[str] = []
        logs.mkdir(parents=True, exist_ok=True, mode=0o700)

    def pids(self) -> dict[str, int]:
        """The process id of every child that runs."""
        return {name: process.pid for name, process in self._running.items() if process.returncode is None}

    def names(self) -> list[str]:
        """Everything that was ever started, in order of its first start."""
        return list(self._names)

    async def start(self, child: Child) -> float:
        """Starts a child; returns the seconds until it was ready. Raises NotReadyError."""
        begun = asyncio.get_running_loop().time()
        self._names.append(child.name)
        process = await self._spawn(child)
        self._order.append(child.name)
        if not await _until_ready(child, process):
            if process.returncode is not None:
                raise NotReadyError(f"{child.name} ended with {process.returncode}: {self.tail(child.name)}")
            raise NotReadyError(f"{child.name} is not ready after {child.ready_seconds:.0f} s: {self.tail(child.name)}")
        self._keepers[child.name] = asyncio.create_task(self._keep(child, process))
        return asyncio.get_running_loop().time() - begun

    async def start_all(self, children: Sequence[Child]) -> None:
        """Starts children that do not need each other, saying when each is ready. Raises the first NotReadyError."""
        starts = [asyncio.create_task(self.start_saying(child)) for child in children]
        try:
            await asyncio.gather(*starts)
        finally:
            await end(starts)

    async def start_saying(self, child: Child) -> None:
        """Starts a child and says so. Raises NotReadyError."""
        self._say(child.name, "starting")
        seconds = await self.start(child)
        self._say(child.name, f"ready in {seconds:.1f} s")

    async def stop(self) -> None:
        """Stops all children in reverse order; what does not stop in time is killed. Nothing is started any more."""
        await end(self._keepers.values())
        self._keepers.clear()
        deadline = asyncio.get_running_loop().time() + STOP_ALL_SECONDS
        for name in reversed(self._order):
            if (process := self._running.pop(name, None)) is not None:
                left = deadline - asyncio.get_running_loop().time()
                if not await _end(process, max(0.0, min(STOP_SECONDS, left))):
                    self._say(name, "did not end when asked, so it was killed")
        self._order.clear()

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
                preexec_fn=dying_with(os.getpid()),
            )
        except OSError as error:
            raise NotReadyError(f"{child.name}: {child.command[0]} cannot be run: {error.strerror}") from None
        finally:
            os.close(log)
        self._running[child.name] = process
        return process

    async def _keep(self, child: Child, process: asyncio.subprocess.Process) -> None:
        """Starts the child again whenever it ends, with a pause that grows while it does not become ready."""
        pause = FIRST_PAUSE_SECONDS
        while True:
            code = await process.wait()
            self._say(child.name, f"ended with {code}; started again in {pause:.1f} s")
            _kill_group(process.pid)
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE_SECONDS)
            try:
                process = await self._spawn(child)
            except NotReadyError as error:
                self._say(child.name, str(error))
                continue
            if await _until_ready(child, process) and await _told(child, process):
                self._say(child.name, "ready again")
                pause = FIRST_PAUSE_SECONDS
            elif process.returncode is None:
                self._say(child.name, f"runs again, but is not ready after {child.ready_seconds:.0f} s")


async def _until_ready(child: Child, process: asyncio.subprocess.Process) -> bool:
    """Whether the child became ready in its time; it did not when it ended before."""
    loop = asyncio.get_running_loop()
    until = loop.time() + child.ready_seconds
    while process.returncode is None and loop.time() < until:
        if await child.ready() and process.returncode is None:
            return True
        await asyncio.sleep(LOOK_SECONDS)
    return False


async def _told(child: Child, process: asyncio.subprocess.Process) -> bool:
    """Whether everybody who must know of the restart does."""
    while child.restarted is not None and process.returncode is None:
        if await child.restarted():
            return True
        await asyncio.sleep(FIRST_PAUSE_SECONDS)
    return process.returncode is None


def dying_with(parent: int) -> Callable[[], None]:
    """What a child does before it runs its program: it ends when its parent does, even by `kill -9`."""

    def prepare() -> None:
        if _libc is not None:
            _libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it died before the line above
            os._exit(1)

    return prepare


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


async def _end(process: asyncio.subprocess.Process, patience_seconds: float) -> bool:
    """Ends a child with all of its group; whether it ended when asked."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience_seconds):
                await process.wait()
    asked = process.returncode is not None
    _kill_group(process.pid)
    await process.wait()
    return asked
