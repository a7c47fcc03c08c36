"""Cables that are cut for a while, silently: services from the log, the tunneler from its login node."""

from __future__ import annotations

import asyncio
import os
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import tomli_w

from schemas.base import SessionId
from schemas.lifecycle import Ended
from schemas.session import JobSubmitted, SessionEnded, StartAdmitted, TunnelReady
from services._runtime.systems import SshReach
from services._runtime.tasks import end
from services.operator_cli.supervisor import dying_with
from services.tunneler.listening import PortRange
from services.tunneler.port_forward import SshWays
from services.tunneler.ports import Address, Target
from tests.soak.stage import SUBJECTS, many, stage
from tests.support.namespaces import Namespace, namespace, needs_namespaces
from tests.support.running import ROOT
from tests.support.site import client_key

pytestmark = [pytest.mark.real, needs_namespaces, pytest.mark.timeout(300)]
CUT_SECONDS = 12.0
"""Longer than two pings: the services have given their connections up by then."""
SESSIONS = 40
QUESTION = b"are you there?"
ECHO = """
import socketserver, sys
class Echo(socketserver.BaseRequestHandler):
    def handle(self):
        while data := self.request.recv(4096):
            self.request.sendall(data)
server = socketserver.ThreadingTCPServer((sys.argv[1], 0), Echo)
print(server.server_address[1], flush=True)
server.serve_forever()
"""


@pytest.mark.parametrize("service", ["accounts", "hpc-launcher", "tunneler"])
async def test_a_service_that_is_cut_off_does_its_part_when_it_is_back_and_nothing_twice(
    tmp_path: Path, service: str
) -> None:
    with namespace() as far:
        async with stage(tmp_path, host=far.outside, inside={service: far.enter}) as here:
            ended: list[Ended] = []
            living = asyncio.create_task(many(here, SESSIONS, 10, ended.append))
            try:
                async with asyncio.timeout(60):
                    while len(ended) < 10:
                        await asyncio.sleep(0.05)
                far.cut()
                before = len(ended)
                await asyncio.sleep(CUT_SECONDS)
                assert len(ended) < SESSIONS, "the cut cut nothing"
                assert len(ended) <= before + 10, "sessions went on without the service"
                far.mend()
                async with asyncio.timeout(90):
                    await living
                await here.idle(60)
            finally:
                await end([living])
            assert Counter(each.end.outcome for each in ended) == {"stopped": SESSIONS}
            facts: Counter[tuple[type, str]] = Counter()
            for recorded in await here.log.history("SESSIONS", SUBJECTS.sessions()):
                facts[type(recorded.message), getattr(recorded.message, "session", "")] += 1
            for fact in (StartAdmitted, JobSubmitted, TunnelReady, SessionEnded):
                assert [count for (kind, _), count in facts.items() if kind is fact] == [1] * SESSIONS, fact


async def test_a_login_node_that_is_cut_off_is_noticed_and_reached_again(tmp_path: Path) -> None:
    with namespace(2) as far:
        async with _inside(far, "-c", ECHO, far.inside) as echo, _login_node_inside(far, tmp_path) as login:
            port = int(await echo.readline())
            reach = SshReach(
                login_nodes=[login],
                user="farlab",
                key_file=str(tmp_path / "id_ed25519"),
                known_hosts_file=str(tmp_path / "login" / "known_hosts"),
                networks=[f"{far.inside}/32"],
                keepalive_seconds=0.5,
                connect_seconds=1.0,
            )
            ways = SshWays(reach, PortRange("127.0.0.1", (0, 0)))
            await ways.start()
            way = await ways.open(SessionId("01s"), Target(far.inside, port), 0)
            assert await _echoed(way.address) == QUESTION
            ways.came_back.clear()
            far.cut()
            async with asyncio.timeout(30):
                while ways.ssh.connected:
                    await asyncio.sleep(0.05)
            waiting = asyncio.create_task(_echoed(way.address))
            far.mend()
            assert await asyncio.wait_for(waiting, 30) == QUESTION
            assert ways.came_back.is_set()
            await ways.close()


@asynccontextmanager
async def _inside(far: Namespace, *arguments: str) -> AsyncIterator[asyncio.StreamReader]:
    """A Python program inside, and what it says."""
    program = await asyncio.create_subprocess_exec(
        *(*far.enter, sys.executable, *arguments),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        preexec_fn=dying_with(os.getpid()),
    )
    assert program.stdout is not None
    try:
        yield program.stdout
    finally:
        program.kill()
        await program.wait()


@asynccontextmanager
async def _login_node_inside(far: Namespace, folder: Path) -> AsyncIterator[str]:
    """An emulated login node inside; its host and port."""
    settings = {
        "folder": str(folder / "login"),
        "host": far.inside,
        "authorized_keys": [client_key(folder)],
        "networks": [f"{far.inside}/32"],
    }
    (folder / "login.toml").write_text(tomli_w.dumps(settings))
    async with _inside(far, "-m", "emulators.login_node", "--config", str(folder / "login.toml")) as said:
        line = (await asyncio.wait_for(said.readline(), 20)).decode()
        yield line.split()[-1]


async def _echoed(address: Address) -> bytes:
    reader, writer = await asyncio.open_connection(address.host, address.port)
    try:
        writer.write(QUESTION)
        return await reader.readexactly(len(QUESTION))
    finally:
        writer.close()
