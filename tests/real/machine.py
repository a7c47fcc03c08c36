"""Accounts on this machine, and mounts of their own for real servers that tests run as root. Starts no server.

Two runs on one machine share the accounts and nothing else: each has its own home directories.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pwd
import shlex
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

COMMENT = "Farlab test"
LOCKS = Path("/run")
TOOLS = ("unshare", "nsenter", "mount", "useradd", "userdel")
READY_SECONDS = 30.0


def missing(*tools: str) -> str:
    """Which tools or rights this machine lacks, or nothing."""
    if os.geteuid() != 0:
        return "root"
    lacking = [tool for tool in (*TOOLS, *tools) if shutil.which(tool) is None]
    if not lacking and subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode:
        lacking = ["the right to mount"]
    return ", ".join(lacking)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def until(holds: Callable[[], bool], told: Callable[[], str], seconds: float = READY_SECONDS) -> None:
    """Waits for a condition; a command of it that fails is asked again. `told` says what it failed with."""
    ends = time.monotonic() + seconds
    while True:
        with contextlib.suppress(subprocess.CalledProcessError, OSError):
            if holds():
                return
        assert time.monotonic() < ends, told()
        time.sleep(0.05)


@contextlib.contextmanager
def account(name: str, shell: str = "/bin/bash") -> Iterator[None]:
    """An account of this machine; the last of the runs that use it removes it."""
    with (LOCKS / f"farlab-test-{name}.used").open("w") as used:
        with _changing():
            fcntl.flock(used, fcntl.LOCK_SH)
            if not any(each.pw_name == name for each in pwd.getpwall()):
                made = ["useradd", "--no-create-home", "--comment", COMMENT, "--shell", shell, "--password", "*", name]
                subprocess.run(made, check=True)
        try:
            yield
        finally:
            with _changing(), contextlib.suppress(BlockingIOError):
                fcntl.flock(used, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if pwd.getpwnam(name).pw_gecos == COMMENT:
                    subprocess.run(["userdel", "--force", name], stderr=subprocess.DEVNULL, check=False)


@contextlib.contextmanager
def _changing() -> Iterator[None]:
    """While this lasts no other run makes or removes an account."""
    with (LOCKS / "farlab-test-accounts.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


class View:
    """Mounts that only what is started inside sees: its own /home, and `needed` folders where every account may read.

    `root` must be a folder that every account may pass through.
    """

    def __init__(self, root: Path, needed: Sequence[Path]) -> None:
        self.home = root / "home"
        self.home.mkdir(mode=0o755)
        script = "\n".join(["set -e", *_mounts(root, self.home, needed), "echo ready", "exec sleep infinity"])
        self._holder = subprocess.Popen(
            ["unshare", "--mount", "--propagation", "private", "sh", "-c", script],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            cwd="/",
        )
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == b"ready\n", "no mounts of its own could be made"

    def inside(self, *command: str) -> list[str]:
        """The command that runs this one inside."""
        return ["nsenter", f"--mount=/proc/{self._holder.pid}/ns/mnt", "--", *command]

    def make_home(self, name: str) -> Path:
        """The account's home directory, as it is called outside."""
        home, who = self.home / name, pwd.getpwnam(name)
        home.mkdir(mode=0o700)
        os.chown(home, who.pw_uid, who.pw_gid)
        return home

    def processes(self) -> set[int]:
        """Whatever runs inside."""
        ours, found = Path(f"/proc/{self._holder.pid}/ns/mnt").readlink(), set()
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if (process / "ns" / "mnt").readlink() == ours:
                    found.add(int(process.name))
        return found

    def end(self) -> None:
        """Kills whatever runs inside."""
        for process in self.processes() - {self._holder.pid}:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        self._holder.kill()
        self._holder.communicate()


def _mounts(root: Path, home: Path, needed: Sequence[Path]) -> Iterator[str]:
    """The commands, in order: keep what is needed, hide what hides it, and put it back."""
    closed = {folder for path in needed for folder in path.parents if not folder.stat().st_mode & 0o001}
    hidden = [folder for folder in {*closed, Path("/home")} if not closed & set(folder.parents)]
    covered = [path for path in needed if set(hidden) & set(path.parents)]
    for number, path in enumerate(covered):
        kept = root / "kept" / str(number)
        kept.mkdir(parents=True)
        yield f"mount --bind {shlex.quote(str(path))} {kept}"
    for folder in hidden:
        new = f"--bind {home}" if folder == Path("/home") else "-t tmpfs -o mode=755 tmpfs"
        yield f"mount {new} {shlex.quote(str(folder))}"
    for number, path in enumerate(covered):
        yield f"mkdir -p {shlex.quote(str(path))}\nmount --bind {root}/kept/{number} {shlex.quote(str(path))}"
