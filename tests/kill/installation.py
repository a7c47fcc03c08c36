"""An installation of `farlab up` with stub servers, its children by name, and how to hurt them. Judges nothing."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from services.operator_cli.up import left_over
from tests.kill import stub_server
from tests.support.running import ROOT, RunningFarlab

WORDS = {
    "hub": "-m jupyterhub ",
    "proxy": "services.hub_bridge.proxy",
    "accounts": "services.accounts",
    "hpc_launcher": "services.hpc_launcher",
    "tunneler": "services.tunneler",
    "nats": "nats-server",
    "demo-hpc-site": "emulators.unicore_site",
    "demo-hpc-login": "emulators.login_node",
}
"""What the command line of each child has, by the name the supervisor gives it."""
_SAID = re.compile(r"(ready again|runs again)")


class Installation(RunningFarlab):
    """The running processes and what became of those that were hurt."""

    def __init__(self, folder: Path, tree: Path) -> None:
        super().__init__(folder / "state", folder / "farlab.toml", tree)
        self.recovered: list[tuple[str, float]] = []
        self._hurt: dict[str, float] = {}
        self._read = 0

    def children(self) -> dict[str, int]:
        """The children that run now, by name."""
        assert self.process is not None
        found: dict[str, int] = {}
        told = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        for pid in told.split():
            with contextlib.suppress(OSError):
                line = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                for name, words in WORDS.items():
                    if words in line:
                        found[name] = int(pid)
        return found

    def well(self) -> list[str]:
        """The children that were not hurt, or are back since."""
        self.listen()
        return [name for name in self.children() if name not in self._hurt]

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> bool:
        """Sends a signal that ends it. False when it is just not there."""
        pid = self.children().get(name)
        if pid is None:
            return False
        os.kill(pid, number)
        self._hurt[name] = time.monotonic()
        return True

    def freeze(self, name: str) -> int | None:
        """SIGSTOP; the process to let go on later."""
        pid = self.children().get(name)
        if pid is not None:
            os.kill(pid, signal.SIGSTOP)
        return pid

    def thaw(self, pid: int) -> None:
        """SIGCONT, if it is still there."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)

    def listen(self) -> None:
        """Reads what the supervisor said since: who is back, and how long it took."""
        text = self.log.read_text(errors="replace")
        new, self._read = text[self._read :], len(text)
        for line in new.splitlines():
            if _SAID.search(line):
                for name in list(self._hurt):
                    if re.search(rf"\b{re.escape(name)}\b", line):
                        self.recovered.append((name, time.monotonic() - self._hurt.pop(name)))

    def processes_left(self) -> int:
        """Processes of the installation after its stop."""
        return len(left_over(self.state))


@contextlib.contextmanager
def installation(folder: Path, queue_seconds: float = 0.3, tree: Path = ROOT) -> Iterator[Installation]:
    """A running installation whose servers are stubs, of the packages in `tree`."""
    stub = stub_server.install(folder)
    (folder / "systems").mkdir(parents=True, exist_ok=True)
    (folder / "farlab.toml").write_text((ROOT / "farlab.toml").read_text())
    system = (ROOT / "systems" / "demo-hpc.toml").read_text()
    system = system.replace("queue_seconds = 1.0", f"queue_seconds = {queue_seconds}")
    assert "[job]" not in system or "prologue" not in system
    prologue = f"prologue = ['export PYTHONPATH={stub}']\n"
    system = (
        system.replace("[job]\n", "[job]\n" + prologue)
        if "[job]" in system
        else system.replace("[partitions", f"[job]\n{prologue}\n[partitions", 1)
    )
    (folder / "systems" / "demo-hpc.toml").write_text(system)
    running = Installation(folder, tree)
    try:
        running.start()
        yield running
    finally:
        running.stop()
