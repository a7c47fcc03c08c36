"""A real nats-server on a free port and in a folder of its own, stopped at the end. Omits nothing of the server."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from services.operator_cli.supervisor import dying_with

CONFIGURATION = """
listen: "{host}:{port}"
ports_file_dir: "{folder}"
server_name: "test"
jetstream {{ store_dir: "{folder}/jetstream", sync_interval: {sync}, max_memory_store: 64MB, max_file_store: 4GB }}
"""


class NatsServer:
    """One server, that can be killed and started again on the same port and files."""

    def __init__(self, folder: Path, sync: str = "always", host: str = "127.0.0.1") -> None:
        self.folder = folder
        self.host = host
        self.sync = sync
        self.port = -1
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"nats://{self.host}:{self.port}"

    async def start(self) -> None:
        """Starts the server; returns when its port is known."""
        configuration = self.folder / "nats.conf"
        configuration.write_text(
            CONFIGURATION.format(host=self.host, port=self.port, folder=self.folder, sync=self.sync)
        )
        for stale in self.folder.glob("*.ports"):
            stale.unlink()
        with (self.folder / "nats.log").open("ab") as log:
            self.process = subprocess.Popen(
                [str(Path(sys.executable).parent / "nats-server"), "-c", str(configuration)],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                preexec_fn=dying_with(os.getpid()),
            )
        async with asyncio.timeout(20):
            while not (ports := _ports(self.folder, self.process.pid)):
                await asyncio.sleep(0.01)
        self.port = ports

    def stop(self, with_signal: signal.Signals = signal.SIGTERM) -> None:
        """Ends the server and waits for it."""
        if self.process is not None:
            self.process.send_signal(with_signal)
            self.process.wait(20)
            self.process = None


def _ports(folder: Path, pid: int) -> int:
    for file in folder.glob(f"*_{pid}.ports"):
        try:
            return int(json.loads(file.read_text())["nats"][0].rpartition(":")[2])
        except (ValueError, KeyError, IndexError):
            return 0
    return 0


@asynccontextmanager
async def nats_server(folder: Path, sync: str = "always") -> AsyncIterator[NatsServer]:
    """A running server."""
    server = NatsServer(folder, sync)
    await server.start()
    try:
        yield server
    finally:
        server.stop(signal.SIGKILL)
