"""`farlab up` as an operator runs it: a process of its own, stopped by a signal. Omits nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from services.operator_cli.supervisor import dying_with

ROOT = Path(__file__).parents[2]


class RunningFarlab:
    """A running installation and how to reach it; its processes are started in `tree`, of whose packages they are."""

    def __init__(self, state: Path, config: Path, tree: Path = ROOT) -> None:
        self.state = state
        self.config = config
        self.tree = tree
        self.log = state.with_suffix(".log")
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, seconds: float = 120.0) -> None:
        """Starts it; returns when it says that it is ready."""
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "services.operator_cli", "up", "--config", str(self.config)),
                    *("--state", str(self.state), "--port", "0"),
                ],
                cwd=self.tree,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=dying_with(os.getpid()),
            )
        until = time.monotonic() + seconds
        while "Ready in" not in self.log.read_text():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < until, self.log.read_text()
            time.sleep(0.05)

    def stop(self, number: signal.Signals = signal.SIGINT) -> str:
        """Stops it; returns what it printed."""
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(60)
            self.process = None
        return self.log.read_text()

    @property
    def ports(self) -> dict[str, Any]:
        """The ports it chose."""
        ports: dict[str, Any] = json.loads((self.state / "ports.json").read_text())
        return ports

    @property
    def url(self) -> str:
        """Where users go."""
        return f"http://127.0.0.1:{self.ports['hub']}/"

    @property
    def password(self) -> str:
        """The password of its users."""
        return (self.state / "password").read_text()

    @property
    def token(self) -> str:
        """A token that may start and stop every server."""
        return (self.state / "operator.token").read_text()

    def farlab(self, *arguments: str) -> Any:
        """The JSON a reading command prints about this installation."""
        return json.loads(self.printed(*arguments))

    def printed(self, *arguments: str) -> str:
        """What a reading command prints with `--json`."""
        command = [sys.executable, "-m", "services.operator_cli", *arguments, "--json"]
        environment = {**os.environ, "FARLAB_CONFIG": str(self.state / "farlab.toml")}
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=True
        )
        return done.stdout

    def pid_of(self, words: str) -> int:
        """The process of this installation whose command line has these words."""
        for process in Path("/proc").glob("[0-9]*"):
            try:
                line = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                environment = (process / "environ").read_bytes().decode(errors="replace")
            except OSError:
                continue
            if words in line and str(self.state) in line + environment:
                return int(process.name)
        raise AssertionError(f"no process with {words!r} of {self.state}")


@contextmanager
def running_farlab(
    folder: Path, queue_seconds: float = 1.0, system_more: str = "", *, with_cloud: bool = False
) -> Iterator[RunningFarlab]:
    """An installation on the default configuration, in a folder of its own; its cloud only `with_cloud`."""
    (folder / "systems").mkdir(parents=True, exist_ok=True)
    (folder / "farlab.toml").write_text((ROOT / "farlab.toml").read_text())
    system = (ROOT / "systems" / "demo-hpc.toml").read_text()
    system = system.replace("queue_seconds = 1.0", f"queue_seconds = {queue_seconds}")
    (folder / "systems" / "demo-hpc.toml").write_text(system + system_more)
    if with_cloud:
        (folder / "systems" / "demo-cloud.toml").write_text((ROOT / "systems" / "demo-cloud.toml").read_text())
    running = RunningFarlab(folder / "state", folder / "farlab.toml")
    try:
        running.start()
        yield running
    finally:
        running.stop()
