"""Three real nats-servers in one JetStream cluster, to be killed and started again. Omits nothing of the server."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import nats

from services.operator_cli.supervisor import dying_with

CONFIGURATION = """
server_name: "{name}"
listen: "127.0.0.1:{port}"
jetstream {{ store_dir: "{folder}/{name}", sync_interval: always, max_memory_store: 64MB, max_file_store: 1GB }}
cluster {{ name: "test", listen: "127.0.0.1:{route}", routes: [{routes}] }}
"""
NODES = ("n1", "n2", "n3")


class Cluster:
    """The nodes by name."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        free = [socket.socket() for _ in range(2 * len(NODES))]
        for each in free:
            each.bind(("127.0.0.1", 0))
        numbers = [each.getsockname()[1] for each in free]
        for each in free:
            each.close()
        self.ports = dict(zip(NODES, numbers, strict=False))
        self._routes = dict(zip(NODES, numbers[len(NODES) :], strict=True))
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def urls(self) -> list[str]:
        """Where clients connect."""
        return [f"nats://127.0.0.1:{port}" for port in self.ports.values()]

    def start(self, name: str) -> None:
        """Starts a node."""
        routes = ", ".join(f'"nats://127.0.0.1:{port}"' for port in self._routes.values())
        configuration = self.folder / f"{name}.conf"
        configuration.write_text(
            CONFIGURATION.format(
                name=name, port=self.ports[name], folder=self.folder, route=self._routes[name], routes=routes
            )
        )
        with (self.folder / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                [str(Path(sys.executable).parent / "nats-server"), "-c", str(configuration)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=dying_with(os.getpid()),
            )

    def kill(self, name: str) -> None:
        """SIGKILL."""
        process = self._processes.pop(name)
        process.send_signal(signal.SIGKILL)
        process.wait(20)

    def close(self) -> None:
        """Kills every node."""
        for name in list(self._processes):
            self.kill(name)


@asynccontextmanager
async def cluster(folder: Path) -> AsyncIterator[Cluster]:
    """A cluster that has a leader."""
    nodes = Cluster(folder)
    try:
        for name in NODES:
            nodes.start(name)
        async with asyncio.timeout(60):
            while True:
                with contextlib.suppress(Exception):
                    client = await nats.connect(nodes.urls, connect_timeout=1, max_reconnect_attempts=1)
                    try:
                        await client.jetstream(timeout=1).account_info()
                        break
                    finally:
                        await client.close()
                await asyncio.sleep(0.1)
        yield nodes
    finally:
        nodes.close()
