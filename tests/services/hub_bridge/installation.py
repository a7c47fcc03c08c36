"""A real JupyterHub with the spawner, its real proxy and a real event log, each a process. Omits nothing of the hub."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

import services.hub_bridge
from services._runtime import topology
from services._runtime.connection import Broker, connect
from services._runtime.settings import load
from services._runtime.vault import make_keys, write_secret_file
from tests.services.hub_bridge.others import Others, give_access
from tests.support.broker import NatsServer, nats_server

CONFIG = Path(services.hub_bridge.__file__).with_name("jupyterhub_config.py")
TOKEN = "0123456789abcdef" * 4
PASSWORD = "a-password-for-tests"

FARLAB_TOML = """
[nats]
servers = ["{nats}"]
[hub_bridge]
public_url = "http://127.0.0.1:{public}{base}"
hub_port = {hub}
proxy_api_url = "http://127.0.0.1:{proxy}"
proxy_token_file = "proxy.token"
password_file = "password"
service_token_file = "operator.token"
answer_seconds = 10
users = {users}
{more}
"""

SYSTEM_TOML = """
title = "Demo HPC"
[site]
backend = "unicore"
url = "https://127.0.0.1:1/DEMO/rest/core"
issuer_dn = "CN=Farlab"
delegation_key_file = "key.pem"
[reach]
reach = "direct"
networks = ["127.30.0.0/24"]
[partitions.batch]
max_nodes = 4
gpus_per_node = 4
[partitions.devel]
max_runtime_seconds = 7200
"""


def free_ports(count: int) -> list[int]:
    """Ports that are free now."""
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [int(each.getsockname()[1]) for each in sockets]
    for each in sockets:
        each.close()
    return ports


def write_configuration(folder: Path, nats: str, users: list[str], more: str = "", base: str = "/") -> dict[str, int]:
    """A whole configuration in a folder; returns its ports."""
    public, hub, proxy = free_ports(3)
    ports = {"public": public, "hub": hub, "proxy": proxy}
    (folder / "systems").mkdir(exist_ok=True)
    (folder / "systems" / "demo-hpc.toml").write_text(SYSTEM_TOML)
    (folder / "farlab.toml").write_text(
        FARLAB_TOML.format(nats=nats, users=json.dumps(users), more=more, base=base, **ports)
    )
    make_keys(folder / "keys")
    for name, secret in (("proxy.token", TOKEN[::-1]), ("password", PASSWORD), ("operator.token", TOKEN)):
        write_secret_file(folder / name, secret.encode())
    return ports


class Hub:
    """A JupyterHub that can be killed and started again, and its proxy, which goes on."""

    def __init__(self, folder: Path, ports: dict[str, int], broker_process: NatsServer, base: str = "/") -> None:
        self.broker_process = broker_process
        self.folder = folder
        self.url = f"http://127.0.0.1:{ports['public']}{base}"
        self.ports = ports
        self.process: subprocess.Popen[bytes] | None = None
        self.proxy: subprocess.Popen[bytes] | None = None
        self.http = aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True))
        self.connector: Callable[[], aiohttp.TCPConnector] | None = None
        self.headers = {"Authorization": f"token {TOKEN}"}
        self.extra_config = ""

    async def start(self) -> None:
        """Starts what does not run; returns when the hub answers through the proxy."""
        if self.proxy is None:
            self.proxy = self._run(
                "proxy",
                [
                    *(sys.executable, "-m", "services.hub_bridge.proxy", "--log-level", "warning"),
                    *("--ip", "127.0.0.1", "--port", str(self.ports["public"])),
                    *("--api-ip", "127.0.0.1", "--api-port", str(self.ports["proxy"])),
                ],
                CONFIGPROXY_AUTH_TOKEN=TOKEN[::-1],
            )
        config = CONFIG
        if self.extra_config:
            config = self.folder / "jupyterhub_config.py"
            config.write_text(f"load_subconfig({str(CONFIG)!r})\nc = get_config()\n{self.extra_config}\n")
        self.process = self._run(
            "hub",
            [sys.executable, "-m", "jupyterhub", "-f", str(config)],
            FARLAB_CONFIG=str(self.folder / "farlab.toml"),
        )
        async with asyncio.timeout(60):
            while not await self._healthy():
                assert self.process.poll() is None, (self.folder / "hub.log").read_text()[-3000:]
                await asyncio.sleep(0.05)

    def _run(self, name: str, command: list[str], **environment: str) -> subprocess.Popen[bytes]:
        with (self.folder / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                cwd=self.folder,
                env={**os.environ, "PYTHONPATH": str(CONFIG.parents[2]), **environment},
            )

    async def _healthy(self) -> bool:
        try:
            if self.connector is not None:
                connector = self.connector()
                self.connector = None
                await self.http.close()
                self.http = aiohttp.ClientSession(connector=connector)
            async with self.http.get(f"{self.url}hub/health") as answer:
                return answer.status == 200
        except (aiohttp.ClientError, FileNotFoundError):
            return False

    def stop(self, with_signal: signal.Signals = signal.SIGKILL) -> None:
        """Ends the hub alone."""
        if self.process is not None:
            self.process.send_signal(with_signal)
            self.process.wait(30)
            self.process = None

    async def close(self) -> None:
        """Ends everything."""
        self.stop()
        if self.proxy is not None:
            self.proxy.kill()
            self.proxy.wait(10)
        await self.http.close()

    def log_text(self) -> str:
        """What the hub logged."""
        return (self.folder / "hub.log").read_text()

    async def call(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        """Status and decoded answer of a call to the REST API."""
        url = f"{self.url}hub/api/{path}"
        async with self.http.request(method, url, json=body, headers=self.headers) as answer:
            text = await answer.text()
            try:
                return answer.status, json.loads(text) if text else None
            except ValueError:
                return answer.status, text

    async def start_server(
        self, user: str, options: dict[str, object] | None = None, name: str = ""
    ) -> tuple[int, Any]:
        """Presses Start."""
        path = f"users/{user}/servers/{name}" if name else f"users/{user}/server"
        asked = {"system": "demo-hpc", "project": "ztrain", "partition": "batch"} if options is None else options
        return await self.call("POST", path, {"user_options": asked})

    async def stop_server(self, user: str, name: str = "") -> int:
        """Presses Stop."""
        path = f"users/{user}/servers/{name}" if name else f"users/{user}/server"
        return (await self.call("DELETE", path))[0]

    async def server(self, user: str, name: str = "") -> dict[str, Any] | None:
        """The hub's model of a server that runs or is pending."""
        status, model = await self.call("GET", f"users/{user}?include_stopped_servers")
        assert status == 200, model
        found: dict[str, Any] | None = model["servers"].get(name)
        return found

    async def until(self, user: str, name: str = "", *, ready: bool = True, seconds: float = 30) -> None:
        """Waits until the hub takes a server for ready, or for stopped."""
        async with asyncio.timeout(seconds):
            while True:
                model = await self.server(user, name)
                if ready and model is not None and model["ready"]:
                    return
                if not ready and (model is None or (not model["ready"] and not model["pending"])):
                    return
                await asyncio.sleep(0.05)

    async def progress(
        self, user: str, name: str = "", said: list[dict[str, Any]] | None = None
    ) -> list[dict[str, Any]]:
        """All messages of a start, to its end; `said` has each as soon as it came."""
        path = f"users/{user}/servers/{name}/progress" if name else f"users/{user}/server/progress"
        said = [] if said is None else said
        async with self.http.get(f"{self.url}hub/api/{path}", headers=self.headers) as stream:
            assert stream.status == 200, await stream.text()
            async for line in stream.content:
                if line.startswith(b"data: "):
                    said.append(json.loads(line[6:]))
        return said

    async def visit(self, user: str, name: str = "") -> dict[str, Any]:
        """What the user's server answers through the proxy."""
        path = f"user/{user}/{name}/whatever" if name else f"user/{user}/whatever"
        async with self.http.get(self.url + path) as answer:
            assert answer.status == 200, await answer.text()
            said: dict[str, Any] = await answer.json()
            return said


@asynccontextmanager
async def installation(
    folder: Path, users: list[str], more: str = "", base: str = "/"
) -> AsyncIterator[tuple[Hub, Others, Broker]]:
    """Event log, the other services' stand-in, proxy, and a hub that is not yet started."""
    async with nats_server(folder) as server:
        ports = write_configuration(folder, server.url, users, more, base)
        configuration = load(folder / "farlab.toml")
        broker = await connect(configuration, "operator-cli")
        await topology.apply(broker.log.js, configuration.subjects, configuration.shared.retention)
        await give_access(broker.access, users)
        others = Others(broker.log, configuration.subjects)
        await others.start()
        hub = Hub(folder, ports, server, base)
        try:
            yield hub, others, broker
        finally:
            await hub.close()
            await others.close()
            await broker.close()


async def no_secret_is_left(broker: Broker) -> None:
    """Waits until the vault is empty: secrets go right after their session."""
    async with asyncio.timeout(10):
        while await broker.vault.keys():
            await asyncio.sleep(0.02)


def ids(prefix: str, count: int) -> Iterator[str]:
    """Names of users."""
    return (f"{prefix}{number}" for number in range(count))
