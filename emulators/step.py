"""The keeper of one job's processes, as slurmstepd is: run as a program of its own. It knows nothing of sites.

`python -I -S step.py PARENT GRACE_SECONDS COMMAND [ARGUMENT ...]` runs the command and exits with its code. Whatever
the command started ends with it, processes that left its group or session included. SIGTERM ends the command, politely
first; SIGQUIT, or the death of PARENT, ends it at once, so that a killed emulator leaves nothing behind. Standard
library only, for a quick start.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from pathlib import Path

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
NOT_EXECUTABLE = 126
NOT_FOUND = 127
LOOK_SECONDS = 0.02
DEFAULTED = (
    *(signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT),
    *(signal.SIGCHLD, signal.SIGPIPE, signal.SIGXFSZ),
)


def main() -> int:
    """Runs the command; its exit code, or 128 and the signal that ended it."""
    parent, grace_seconds, command = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3:]
    awaited = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGCHLD}
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_BLOCK, awaited)
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    _prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        return 128 + signal.SIGKILL
    me = os.getpid()
    child = os.fork()
    if child == 0:
        _become(command, me)
    code = _attend(child, parent, grace_seconds, awaited)
    _end_all()
    return code


def _become(command: list[str], parent: int) -> None:
    """Turns this process into the command, in a session of its own. Never returns."""
    try:
        os.setsid()
        _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(128 + signal.SIGKILL)
        # Python ignores SIGPIPE, and a shell has what it starts in the background ignore SIGINT: no job inherits it.
        for number in DEFAULTED:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        os.execvp(command[0], command)
    except OSError as error:
        os.write(2, f"{command[0]}: {error.strerror}\n".encode(errors="replace"))
        os._exit(NOT_FOUND if isinstance(error, FileNotFoundError) else NOT_EXECUTABLE)


def _attend(child: int, parent: int, grace_seconds: float, awaited: set[signal.Signals]) -> int:
    """Waits for the command, and ends it when told to."""
    deadline: float | None = None
    while True:
        if (code := _reap(child)) is not None:
            return code
        if deadline is None:
            told = signal.sigwaitinfo(awaited).si_signo
        else:
            seen = signal.sigtimedwait(awaited, max(0.0, deadline - time.monotonic()))
            told = signal.SIGKILL if seen is None else seen.si_signo
        if told in (signal.SIGKILL, signal.SIGQUIT) or (told != signal.SIGCHLD and os.getppid() != parent):
            _signal(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return 128 + signal.SIGKILL
        if told != signal.SIGCHLD and deadline is None:
            deadline = time.monotonic() + grace_seconds
            _signal(child, signal.SIGTERM)


def _signal(child: int, number: signal.Signals) -> None:
    try:
        os.killpg(child, number)
    except ProcessLookupError:  # not yet the leader of its group
        os.kill(child, number)


def _reap(child: int) -> int | None:
    """Buries the dead, orphans that came to us included; the command's code once it is among them."""
    code = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return code
        if pid == 0:
            return code
        if pid == child:
            raw = os.waitstatus_to_exitcode(status)
            code = raw if raw >= 0 else 128 - raw


def _end_all() -> None:
    """Kills what is left of the job until nothing is: those whom we kill may have had children."""
    while True:
        for pid in _descendants():
            try:
                os.kill(pid, signal.SIGKILL)
            except OSError:
                continue
        _reap(0)
        try:
            os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        time.sleep(LOOK_SECONDS)


def _descendants() -> set[int]:
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, IndexError, ValueError):
                continue
    found = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {os.getpid()}


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


if __name__ == "__main__":
    sys.exit(main())
