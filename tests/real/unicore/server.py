"""A UNICORE/X of our own as a process: started, killed, started again in the same folder. Configures nothing itself."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from services.operator_cli.supervisor import dying_with
from tests.real.unicore import artifacts, configuration
from tests.real.unicore.configuration import HOST, SITE, User

READY_SECONDS = 120
STOP_SECONDS = 30
ROOT = Path(__file__).parents[3]


class UnicoreX:
    """One server. `ready_seconds` is how long its last start took."""

    def __init__(
        self, folder: Path, users: list[User], *, userinfo_url: str = "", settings: dict[str, str] | None = None
    ) -> None:
        self.folder = folder
        self.port = _free_port()
        self.ready_seconds = 0.0
        self._begun, self._lives = 0.0, 0
        shell = ["env", f"PYTHONPATH={ROOT}", sys.executable, str(configuration.SHELL)]
        self.trust = configuration.write(
            folder, port=self.port, users=users, userinfo_url=userinfo_url, shell=shell, settings=settings or {}
        )
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def base_url(self) -> str:
        """The base of the REST API."""
        return f"https://{HOST}:{self.port}/rest/core"

    @property
    def jobs(self) -> Path:
        """Where the working directories of its jobs are."""
        return self.folder / "jobs"

    def start(self) -> None:
        """Starts it and waits until it answers; its logs are in the error when it does not in time."""
        self.begin()
        while not self.ready():
            time.sleep(0.1)

    def begin(self) -> None:
        """Starts it, and does not wait. In the thread that is to outlive it: it dies with its parent's thread."""
        self._begun, self._lives = time.monotonic(), self._times_started()
        command = [
            *("java", "-Xmx512m", "-Xms128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto"),
            f"-Dlog4j.configurationFile={self.folder}/logging.properties",
            *("-cp", f"{artifacts.jars()}/*", "eu.unicore.uas.UAS", str(self.folder / "unicorex.config"), SITE),
        ]
        with (self.folder / "logs" / "console.log").open("ab") as console:
            self._process = subprocess.Popen(
                command,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                preexec_fn=dying_with(os.getpid()),
            )

    def ready(self) -> bool:
        """Whether it serves since it was started; its logs are in the error when it never will."""
        assert self._process is not None
        assert self._process.poll() is None, f"UNICORE/X ended at start:\n{self.logs()}"
        self.ready_seconds = time.monotonic() - self._begun
        assert self.ready_seconds < READY_SECONDS, f"UNICORE/X is not ready in time:\n{self.logs()}"
        # It answers before its services are there, and says then that nobody may make jobs.
        return self._times_started() > self._lives and self.answers()

    def _times_started(self) -> int:
        log = self.folder / "logs" / "unicorex.log"
        return log.read_text(errors="replace").count("Server started.") if log.exists() else 0

    def answers(self) -> bool:
        """Whether its REST API answers."""
        context = ssl.create_default_context(cafile=str(self.trust.ca_file))
        try:
            with urllib.request.urlopen(f"{self.base_url}/certificate", timeout=2, context=context) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def kill(self) -> None:
        """Ends it as a power cut does."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """Ends it in order."""
        self._end(signal.SIGTERM)

    def _end(self, number: signal.Signals) -> None:
        if self._process is None:
            return
        self._process.send_signal(number)
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(STOP_SECONDS)
        self._process = None

    def logs(self, most_characters: int = 20_000) -> str:
        """The end of what it wrote."""
        said = ""
        for name in ("console.log", "unicorex.log"):
            file = self.folder / "logs" / name
            if file.exists():
                said += f"--- {name}\n{file.read_text(errors='replace')[-most_characters // 2 :]}\n"
        return said

    def keep_logs(self, folder: Path) -> None:
        """Copies its logs to where they outlive the test."""
        folder.mkdir(parents=True, exist_ok=True)
        for file in (self.folder / "logs").iterdir():
            shutil.copy(file, folder / file.name)


def _free_port() -> int:
    """Not one that the system gives to others: it has to stay free until the server is up, and while it is killed."""
    while True:
        port = random.randrange(15_000, 30_000)
        with socket.socket() as taken, contextlib.suppress(OSError):
            taken.bind((HOST, port))
            return port
