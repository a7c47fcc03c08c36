"""The processes of a running job: begun under a keeper (`step.py`), ended as a whole. Knows no queue and no HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

STEP = str(Path(__file__).with_name("step.py"))
SLACK_SECONDS = 10.0


class Step:
    """A job's processes. `pid` is their keeper's, `started` tells it from a later process with the same id."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.pid = process.pid
        self.started = started(process.pid)

    @classmethod
    async def begin(
        cls,
        command: Sequence[str],
        *,
        folder: Path,
        environment: Mapping[str, str],
        files: tuple[Path | None, Path, Path],
        umask: int,
        grace_seconds: float,
    ) -> Step:
        """Runs a command in a folder with nothing but this environment; `files` are its stdin, stdout, stderr.

        Raises OSError when a file cannot be opened, ValueError when a word holds a NUL.
        """
        stdin, stdout, stderr = files
        opened = [os.open(stdin or os.devnull, os.O_RDONLY)]
        try:
            for each in (stdout, stderr):
                opened.append(os.open(each, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666 & ~umask))
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", STEP, str(os.getpid()), str(grace_seconds), *command),
                cwd=folder,
                env=environment,
                stdin=opened[0],
                stdout=opened[1],
                stderr=opened[2],
                start_new_session=True,
                umask=umask,
            )
        finally:
            for descriptor in opened:
                os.close(descriptor)
        return cls(process)

    async def wait(self) -> int:
        """The exit code, once all processes have ended."""
        code = await self._process.wait()
        return code if code >= 0 else 128 - code

    def ask(self) -> None:
        """Asks all processes to end, with the grace they began with. Waits for nothing."""
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()

    async def stop(self, grace_seconds: float) -> int:
        """Ends all processes: asked to at first, killed after the grace; the exit code."""
        for number, patience_seconds in ((signal.SIGTERM, grace_seconds), (signal.SIGQUIT, SLACK_SECONDS)):
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(patience_seconds):
                    return await self.wait()
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        return await self.wait()


def started(pid: int) -> str:
    """When a process began, in the kernel's ticks; empty when there is none, or only its remains."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] == "Z" else fields[19]


async def end_stray(pid: int, began: str) -> None:
    """Ends a keeper that an earlier life of the site left behind, if it is still the same process."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SLACK_SECONDS):
                while pid > 0 and began and started(pid) == began:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, number)
                    await asyncio.sleep(0.02)
            return
