"""A broker, the three services as processes, and a hub's side in this one. Judges nothing."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from pathlib import Path

import msgspec
import nats

from schemas.base import HubName, SessionId
from schemas.lifecycle import Ended, Reachable, SessionState
from schemas.session import SessionEvent
from schemas.subjects import Subjects
from services._runtime import topology, view
from services._runtime.errors import TransientError
from services._runtime.jetstream import JetStreamBucket, JetStreamLog
from services._runtime.service import utc_now
from services._runtime.settings import Retention
from services._runtime.vault import Vault, make_keys
from services.hub_bridge.secrets import seal
from services.hub_bridge.sessions import Sessions
from services.operator_cli.supervisor import dying_with
from tests.soak.parts import KEPT
from tests.support.broker import NatsServer
from tests.support.samples import Story, stamp

SUBJECTS = Subjects()
NOWHERE_ELSE: Mapping[str, Sequence[str]] = {}
SERVICES = ("accounts", "hpc-launcher", "tunneler")
CONFIGURATION = """
[installation]
hub = "main"
[nats]
servers = ["{nats}"]
[[accounts.users]]
name = "ada"
systems.demo-hpc = {{ site_identity = "CN=Ada", accounts = [{{ name = "ada1", projects = {{ ztrain = [] }} }}] }}
[[accounts.quotas]]
system = "demo-hpc"
limit = 400
"""
SYSTEM = """
title = "Demo HPC"
[site]
backend = "unicore"
url = "https://127.0.0.1:1/DEMO/rest/core"
issuer_dn = "CN=Farlab"
delegation_key_file = "key.pem"
poll_seconds = 0.05
longest_poll_seconds = 1.0
concurrent_requests = 64
[reach]
reach = "direct"
networks = ["127.30.0.0/24"]
[partitions.batch]
max_nodes = 4
"""


class Stage:
    """The running parts."""

    def __init__(self, folder: Path, broker: NatsServer, inside: Mapping[str, Sequence[str]]) -> None:
        self.folder, self.broker, self._inside = folder, broker, inside
        self.processes: dict[str, asyncio.subprocess.Process] = {}
        self.log: JetStreamLog
        self.vault: Vault
        self.sessions: Sessions

    async def start_service(self, service: str) -> None:
        """Starts one; returns when it is ready."""
        process = self.processes[service] = await asyncio.create_subprocess_exec(
            *self._inside.get(service, ()),
            *(sys.executable, "-m", "tests.soak.parts", service, str(self.folder / "farlab.toml")),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            preexec_fn=dying_with(os.getpid()),
        )
        assert process.stdout is not None
        async with asyncio.timeout(60):
            assert await process.stdout.readline() == b"ready\n", service

    async def record(self, event: SessionEvent) -> bool:
        """Appends as the hub does, however long the log is away."""
        while True:
            try:
                return await self.sessions.record(event)
            except TransientError:
                await asyncio.sleep(0.1)

    async def wait_for(self, session: SessionId, wanted: type[SessionState] | object) -> SessionState:
        """Waits until a session is in a state."""
        return await self.sessions.wait_for(session, lambda state: isinstance(state, wanted))  # type: ignore[arg-type]

    async def begin(self, story: Story) -> None:
        """Asks for a start."""
        while True:
            with contextlib.suppress(TransientError):
                await seal(self.vault, story.session, HubName("main"), {"JUPYTERHUB_API_TOKEN": "t"}, None)
                break
            await asyncio.sleep(0.1)
        deadline = utc_now() + timedelta(hours=1)
        await self.record(msgspec.structs.replace(story.requested(), deadline=deadline))

    async def live(self, story: Story) -> Ended:
        """A session from its start to its end; its end."""
        await self.begin(story)
        state = await self.wait_for(story.session, Reachable | Ended)
        if isinstance(state, Reachable):
            await self.record(story.ready())
            await self.record(story.stop())
            state = await self.wait_for(story.session, Ended)
        while True:
            with contextlib.suppress(TransientError):
                await self.vault.forget(story.session)
                break
            await asyncio.sleep(0.1)
        assert isinstance(state, Ended)
        return state

    async def lag(self) -> dict[str, int]:
        """How many messages each service has not answered yet."""
        lags = {}
        for service in SERVICES:
            info = await self.log.js.consumer_info("SESSIONS", service)
            lags[service] = (info.num_pending or 0) + (info.num_ack_pending or 0)
        return lags

    async def idle(self, within_seconds: float) -> None:
        """Waits until every service has answered everything."""
        async with asyncio.timeout(within_seconds):
            while any((await self.lag()).values()):
                await asyncio.sleep(0.1)

    def memory_bytes(self, service: str) -> int:
        """The resident memory of a service."""
        status = Path(f"/proc/{self.processes[service].pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert found is not None
        return int(found[1]) * 1024

    def files(self, service: str) -> int:
        """How many file descriptors a service has open."""
        return len(list(Path(f"/proc/{self.processes[service].pid}/fd").iterdir()))

    def signal(self, service: str, number: signal.Signals) -> None:
        """Sends a signal to a service."""
        self.processes[service].send_signal(number)


@asynccontextmanager
async def stage(
    folder: Path,
    store: Path | None = None,
    host: str = "127.0.0.1",
    inside: Mapping[str, Sequence[str]] = NOWHERE_ELSE,
) -> AsyncIterator[Stage]:
    """Everything, ready. `store` is where the broker keeps its files, if not in the folder; `host` where it listens.

    `inside` is what the commands of some services begin with, which runs them in a network of their own.
    """
    view.ENDED_KEPT = KEPT
    async with AsyncExitStack() as stack:
        broker = NatsServer(store or folder, host=host)
        await broker.start()
        stack.callback(lambda: broker.stop(signal.SIGKILL))
        (folder / "systems").mkdir()
        (folder / "systems" / "demo-hpc.toml").write_text(SYSTEM)
        (folder / "farlab.toml").write_text(CONFIGURATION.format(nats=broker.url))
        make_keys(folder / "keys")

        async def away(_error: Exception) -> None:
            """The broker is away or full on purpose."""

        client = await nats.connect(
            broker.url, reconnect_time_wait=0.05, max_reconnect_attempts=-1, error_cb=away, pending_size=2**24
        )
        stack.push_async_callback(client.close)
        here = Stage(folder, broker, inside)
        here.log = JetStreamLog(client, SUBJECTS)
        await topology.apply(here.log.js, SUBJECTS, Retention())
        here.vault = Vault(JetStreamBucket(here.log.js, SUBJECTS, "vault"), folder / "keys", "hub-bridge")
        here.sessions = Sessions(here.log, SUBJECTS, stamp("hub-bridge"), HubName("main"))
        await here.sessions.start()
        stack.push_async_callback(here.sessions.close)

        def kill_all() -> None:
            for process in here.processes.values():
                with contextlib.suppress(ProcessLookupError):
                    process.kill()

        stack.callback(kill_all)
        for service in SERVICES:
            await here.start_service(service)
        yield here
        for process in here.processes.values():
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
        for process in here.processes.values():
            await asyncio.wait_for(process.wait(), 30)


async def many(here: Stage, count: int, at_once: int, done: Callable[[Ended], None]) -> None:
    """Many sessions over their whole lives, so many at once."""
    left = iter(range(count))

    async def one_after_another() -> None:
        for _ in left:
            done(await here.live(Story()))

    await asyncio.gather(*[one_after_another() for _ in range(at_once)])
