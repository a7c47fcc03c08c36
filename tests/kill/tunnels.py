"""`python -m tests.kill.tunnels`: hundreds of tunnels with live websockets, and what leads to them is killed.

Two tunnelers are real processes on a real broker; login node and servers are in this process. Time to the first byte
again is measured for every session after each blow, and every connection says whose server it reached. Users ask as
pages do: those that tried twenty times a second would measure the load of their own attempts.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from hmac import new as hmac
from pathlib import Path

import aiohttp
import nats
from aiohttp import web

from emulators.login_node.node import LoginNode
from schemas.base import SessionId
from schemas.secrets import HmacProof
from schemas.session import SessionEvent, TunnelLost, TunnelReady
from schemas.subjects import Subjects
from services._runtime import topology
from services._runtime.jetstream import JetStreamBucket, JetStreamLog
from services._runtime.log import Recorded
from services._runtime.settings import Retention
from services._runtime.tasks import end
from services._runtime.vault import Vault, make_keys
from services.operator_cli.supervisor import dying_with
from tests.support.broker import nats_server
from tests.support.samples import Story, stamp
from tests.support.site import login_node

SUBJECTS = Subjects()
HOST = "127.30.0.21"
REPLICAS = ("one", "two")
SYSTEM = """
title = "Demo HPC"
[site]
backend = "unicore"
url = "https://127.0.0.1:1/DEMO/rest/core"
issuer_dn = "CN=Farlab"
delegation_key_file = "key.pem"
[reach]
reach = "ssh"
login_nodes = ["{login}"]
user = "farlab"
key_file = "{folder}/id_ed25519"
known_hosts_file = "{folder}/known_hosts"
networks = ["127.30.0.0/24"]
[partitions.batch]
max_nodes = 4
"""
CONFIGURATION = """
[nats]
servers = ["{nats}"]
[tunneler]
replica = "{replica}"
check_seconds = 5
"""


@dataclass
class Blows:
    """How long each session's user waited for the next byte, by what was hit, and who came out at the wrong server.

    `takeovers` is the tunnelers' own part of that, by the log: until the first loss was said, and from then on until
    the last tunnel was proved again.
    """

    waits: dict[str, list[float]] = field(default_factory=dict)
    takeovers: dict[str, float] = field(default_factory=dict)
    crossed: list[str] = field(default_factory=list)
    stale: list[str] = field(default_factory=list)

    def line(self, tunnels: int) -> str:
        """The summary."""
        words = [f"tunnels={tunnels}", f"crossed={len(self.crossed)}", f"stale={len(self.stale)}"]
        for blow, waits in self.waits.items():
            ordered = sorted(waits)
            for percent in (50, 95, 99):
                at = min(int(len(ordered) * percent / 100), len(ordered) - 1)
                words.append(f"{blow}_p{percent}_seconds={ordered[at]:.2f}")
        words += [f"{name}={value:.2f}" for name, value in self.takeovers.items()]
        return " ".join(words)


class Servers:
    """As many servers as sessions, each on a port of its own, which prove their key and tell their session."""

    def __init__(self) -> None:
        self.ports: dict[int, SessionId] = {}
        self._runner: web.AppRunner | None = None

    async def start(self, sessions: list[SessionId]) -> None:
        app = web.Application()
        app.router.add_get("/{base:.*}farlab/proof", self._proof)
        app.router.add_get("/ws", self._websocket)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1, access_log=None)
        await self._runner.setup()
        for session in sessions:
            site = web.TCPSite(self._runner, HOST, 0)
            await site.start()
            self.ports[int(site._server.sockets[0].getsockname()[1])] = session  # type: ignore[union-attr]

    async def close(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    def _session(self, request: web.Request) -> SessionId:
        assert request.transport is not None
        return self.ports[request.transport.get_extra_info("sockname")[1]]

    async def _proof(self, request: web.Request) -> web.Response:
        answer = hmac(bytes.fromhex(key_of(self._session(request))), bytes.fromhex(request.query["challenge"]), sha256)
        return web.json_response({"proof": answer.hexdigest()})

    async def _websocket(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async for _ in socket:
            await socket.send_str(self._session(request))
        return socket


def key_of(session: SessionId) -> str:
    """The proof key of a session's server."""
    return sha256(session.encode()).hexdigest()


class User:
    """One session's user, whose page asks its server again and again over a websocket, made anew when it breaks."""

    def __init__(self, session: SessionId, where: Callable[[], tuple[str, int]], blows: Blows) -> None:
        self.answered_at = 0.0
        self._session, self._where, self._blows = session, where, blows

    async def live(self, http: aiohttp.ClientSession) -> None:
        """Ends by cancel."""
        while True:
            host, port = self._where()
            try:
                hang_up = aiohttp.ClientWSTimeout(ws_close=0.2)  # type: ignore[call-arg]
                address = f"http://{host}:{port}/ws"
                async with asyncio.timeout(15), http.ws_connect(address, timeout=hang_up) as socket:
                    while True:
                        await socket.send_str("who?")
                        said = await socket.receive_str(timeout=3.0)
                        if said != self._session:
                            self._blows.crossed.append(f"{self._session} came out at {said}")
                        self.answered_at = time.monotonic()
                        with contextlib.suppress(TimeoutError):
                            await socket.receive(timeout=1.0)  # nothing is sent unasked: this is the connection's end
                        if socket.closed or self._where() != (host, port):
                            break
            except (aiohttp.ClientError, OSError, TimeoutError, TypeError):
                pass
            await asyncio.sleep(random.uniform(0.5, 1.0))


class Tunneler:
    """One replica as a process."""

    def __init__(self, folder: Path, replica: str) -> None:
        self.replica = replica
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        port_file = self._folder / f"{self.replica}.port"
        port_file.unlink(missing_ok=True)
        with (self._folder / f"{self.replica}.log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "services.tunneler", "--port-file", str(port_file)),
                    *("--config", str(self._folder / f"{self.replica}.toml")),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=dying_with(os.getpid()),
            )
        async with asyncio.timeout(60):
            while not port_file.exists():
                assert self._process.poll() is None, (self._folder / f"{self.replica}.log").read_text()
                await asyncio.sleep(0.02)

    def cpu_seconds(self) -> float:
        """What the process has used of a core so far."""
        assert self._process is not None
        used = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(used[11]) + int(used[12])) / os.sysconf("SC_CLK_TCK")

    def kill(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait(20)
            self._process = None


@dataclass
class Stage:
    """Everything there is."""

    log: JetStreamLog
    node: LoginNode
    tunnelers: dict[str, Tunneler]
    places: dict[SessionId, TunnelReady]
    losses: dict[SessionId, TunnelLost]


@asynccontextmanager
async def stage(folder: Path, stories: list[Story], servers: Servers) -> AsyncIterator[Stage]:
    """Broker, login node, two tunnelers, and sessions whose servers listen."""
    async with AsyncExitStack() as stack:
        broker = await stack.enter_async_context(nats_server(folder))
        node = await stack.enter_async_context(login_node(folder, port=0))
        (folder / "known_hosts").write_text(node.known_hosts)
        (folder / "systems").mkdir()
        (folder / "systems" / "demo-hpc.toml").write_text(
            SYSTEM.format(login=f"{node.configuration.host}:{node.port}", folder=folder)
        )
        make_keys(folder / "keys")
        client = await nats.connect(broker.url)
        stack.push_async_callback(client.close)
        log = JetStreamLog(client, SUBJECTS)
        await topology.apply(log.js, SUBJECTS, Retention())
        vault = Vault(JetStreamBucket(log.js, SUBJECTS, "vault"), folder / "keys", "hub-bridge")
        places: dict[SessionId, TunnelReady] = {}
        losses: dict[SessionId, TunnelLost] = {}

        def take(recorded: Recorded) -> None:
            match recorded.message:
                case TunnelReady() as ready:
                    places[ready.session] = ready
                case TunnelLost() as lost:
                    losses[lost.session] = lost

        following = await log.follow("SESSIONS", [SUBJECTS.sessions()], take)
        stack.push_async_callback(following.close)
        tunnelers = {}
        for replica in REPLICAS:
            (folder / f"{replica}.toml").write_text(CONFIGURATION.format(nats=broker.url, replica=replica))
            tunnelers[replica] = Tunneler(folder, replica)
            stack.callback(tunnelers[replica].kill)
            await tunnelers[replica].start()
        ports = {session: port for port, session in servers.ports.items()}
        for story in stories:
            await vault.put(story.session, "tunneler", HmacProof(key=key_of(story.session)))
            events: list[SessionEvent] = [story.requested(), story.admitted(), story.created(), story.submitted()]
            after = 0
            for event in (*events, story.listening(HOST, ports[story.session])):
                stamped = stamp()(event, after=after, cause=None)
                scope = SUBJECTS.session(story.session)
                after = await log.append("SESSIONS", SUBJECTS.session_event(stamped), stamped, scope=scope, after=after)
        async with asyncio.timeout(120):
            while len(places) < len(stories):
                await asyncio.sleep(0.05)
        yield Stage(log, node, tunnelers, places, losses)


async def run(folder: Path, tunnels: int) -> Blows:
    """The blows, one after the other, each until every user has an answer again."""
    stories = [Story() for _ in range(tunnels)]
    servers, blows = Servers(), Blows()
    await servers.start([story.session for story in stories])
    try:
        async with stage(folder, stories, servers) as here:
            places = here.places

            def where(session: SessionId) -> Callable[[], tuple[str, int]]:
                return lambda: (places[session].host, places[session].port)

            users = {story.session: User(story.session, where(story.session), blows) for story in stories}
            connector = aiohttp.TCPConnector(limit=0)
            async with aiohttp.ClientSession(connector=connector) as http:
                living = [asyncio.create_task(user.live(http)) for user in users.values()]
                try:
                    await _answered(users, time.monotonic())
                    await _blow(blows, "connection", users, _drop(here))
                    await _blow(blows, "login_node", users, _restart(here))
                    await _takeover(blows, "replica", users, here, REPLICAS[0])
                    await here.tunnelers[REPLICAS[0]].start()
                    await _takeover(blows, "replica_back", users, here, REPLICAS[1])
                finally:
                    await end(living)
            blows.stale += [session for session, ready in places.items() if ready.replica != REPLICAS[0]]
    finally:
        await servers.close()
    return blows


async def _answered(users: dict[SessionId, User], since: float) -> None:
    async with asyncio.timeout(120):
        while any(user.answered_at < since for user in users.values()):
            await asyncio.sleep(0.02)


async def _blow(blows: Blows, name: str, users: dict[SessionId, User], strike: Callable[[], object]) -> None:
    """Strikes, and measures for each user the time to the first answer through what is new."""
    before = time.monotonic()
    result = strike()
    if asyncio.iscoroutine(result):
        await result
    waits: dict[SessionId, float] = {}
    async with asyncio.timeout(120):
        while len(waits) < len(users):
            for session, user in users.items():
                if session not in waits and user.answered_at > before + 0.3:
                    waits[session] = user.answered_at - before
            await asyncio.sleep(0.01)
    blows.waits[name] = list(waits.values())
    await _answered(users, time.monotonic())


async def _takeover(blows: Blows, name: str, users: dict[SessionId, User], here: Stage, replica: str) -> None:
    """Kills a replica, and tells besides what the other one needed by the log."""
    here.losses.clear()
    [survivor] = [each for each in here.tunnelers.values() if each.replica != replica]
    struck, used = datetime.now(UTC), survivor.cpu_seconds()
    await _blow(blows, name, users, here.tunnelers[replica].kill)
    moved = [(lost.at, here.places[session].at) for session, lost in here.losses.items()]
    used = survivor.cpu_seconds() - used
    known = min(lost for lost, _ in moved)
    blows.takeovers[f"{name}_moved"] = len(moved)
    blows.takeovers[f"{name}_cpu_ms_per_tunnel"] = used / len(moved) * 1000
    blows.takeovers[f"{name}_known_after_seconds"] = (known - struck).total_seconds()
    blows.takeovers[f"{name}_restored_in_seconds"] = (max(ready for _, ready in moved) - known).total_seconds()


def _drop(here: Stage) -> Callable[[], object]:
    return here.node.drop_connections


def _restart(here: Stage) -> Callable[[], object]:
    async def restart() -> None:
        await here.node.stop()
        await here.node.start()

    return restart


def main() -> int:
    parser = argparse.ArgumentParser(prog="tunnels", description="Kills what leads to hundreds of live websockets.")
    parser.add_argument("--tunnels", type=int, default=300)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="farlab-tunnels-") as folder:
        blows = asyncio.run(run(Path(folder), options.tunnels))
    print("\n".join(blows.crossed[:20]))
    print(blows.line(options.tunnels))
    return 1 if blows.crossed or blows.stale else 0


if __name__ == "__main__":
    sys.exit(main())
