"""The tunneler's ways through OpenSSH's sshd: what they carry, what is refused, what cuts them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from schemas.secrets import HmacProof
from services._runtime.systems import RemoteForward, SshReach
from services.tunneler.listening import PortRange
from services.tunneler.port_forward import LocalForward, SshWays
from services.tunneler.ports import Address, LostError
from services.tunneler.proof import prove
from tests.real import machine
from tests.real.openssh.sshd import HOST, TUNNELS, Sshd
from tests.support.proving_server import ProvingServer, proving_server
from tests.support.samples import new_session

LACKING = machine.missing("sshd")
pytestmark = [
    pytest.mark.real,
    pytest.mark.xdist_group("slurm"),
    pytest.mark.skipif(
        bool(LACKING) and not os.environ.get("FARLAB_NO_SKIPS"),
        reason=f"needs {LACKING}; `.ci/run` takes it from Debian's openssh-server, as root",
    ),
]
KEY = "ab" * 32
NODE, OTHER, LOGIN = "127.30.0.51", "127.30.0.52", "127.30.0.53"


@pytest.fixture(scope="module")
def root() -> Iterator[Path]:
    with machine.account(TUNNELS, "/usr/sbin/nologin"):
        folder = Path(tempfile.mkdtemp(prefix="farlab-sshd-"))
        folder.chmod(0o755)
        yield folder
        shutil.rmtree(folder)


@contextlib.contextmanager
def running(root: Path, options: str = "", **settings: str) -> Iterator[Sshd]:
    """A login node whose tunneler's key leads to one compute node."""
    folder = Path(tempfile.mkdtemp(dir=root))
    folder.chmod(0o755)
    sshd = Sshd(folder, [TUNNELS], settings=settings)
    sshd.authorize(TUNNELS, f'restrict,port-forwarding,permitopen="{NODE}:*"{options}', "tunnel_key")
    try:
        sshd.start()
        yield sshd
    finally:
        sshd.end()


@contextlib.asynccontextmanager
async def ways_to(
    sshd: Sshd, remote: RemoteForward | None = None, keepalive_seconds: float = 5
) -> AsyncIterator[SshWays]:
    reach = SshReach(
        login_nodes=[sshd.node],
        user=TUNNELS,
        key_file=str(sshd.root / "tunnel_key"),
        known_hosts_file=str(sshd.known_hosts),
        networks=["127.30.0.0/24"],
        connect_seconds=2.0,
        keepalive_seconds=keepalive_seconds,
        remote_forward=remote,
    )
    ways = SshWays(reach, PortRange("127.0.0.1", (0, 0)))
    await ways.start()
    try:
        yield ways
    finally:
        await ways.close()


async def way_to(ways: SshWays, server: ProvingServer) -> LocalForward:
    return await ways.open(new_session(), Address(server.host, server.port), 0)


async def proved(address: Address) -> None:
    async with asyncio.timeout(20):
        while True:
            try:
                return await prove(address, "/user/ada/", HmacProof(key=KEY))
            except LostError:
                await asyncio.sleep(0.02)


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not holds():
            await asyncio.sleep(0.02)


async def test_many_tunnels_share_one_connection_that_may_open_no_session(root: Path) -> None:
    with running(root, MaxSessions="0") as sshd:
        async with proving_server(NODE, KEY) as server, ways_to(sshd) as ways:
            opened = [await way_to(ways, server) for _ in range(20)]
            await asyncio.gather(*[proved(way.address) for way in opened])
            assert sshd.times_logged(f"Accepted publickey for {TUNNELS} ") == 1


async def test_what_permitopen_does_not_name_is_refused_and_disturbs_nobody(root: Path) -> None:
    with running(root) as sshd:
        async with proving_server(NODE, KEY) as server, proving_server(OTHER, KEY) as other, ways_to(sshd) as ways:
            allowed, forbidden = await way_to(ways, server), await way_to(ways, other)
            await proved(allowed.address)
            with pytest.raises(LostError):
                await prove(forbidden.address, "/user/ada/", HmacProof(key=KEY))
            assert other.callers == []
            await prove(allowed.address, "/user/ada/", HmacProof(key=KEY))
            assert sshd.times_logged("Accepted publickey") == 1


async def test_jobs_reach_the_hub_where_permitlisten_allows_it_also_after_a_kill(root: Path) -> None:
    port = machine.free_port()
    with running(root, f',permitlisten="{LOGIN}:{port}"', GatewayPorts="clientspecified") as sshd:
        async with proving_server("127.0.0.1", KEY) as hub, proving_server(NODE, KEY) as server:
            back = RemoteForward(listen_host=LOGIN, listen_port=port, hub_host="127.0.0.1", hub_port=hub.port)
            async with ways_to(sshd, back) as ways:
                await ways.lead_to_hub(True)
                await proved(Address(LOGIN, port))
                sshd.kill_connections()
                await proved(Address(LOGIN, port))
                await ways.lead_to_hub(False)
                await until(lambda: not listens(LOGIN, port))
            forbidden = RemoteForward(listen_host=LOGIN, listen_port=port + 1, hub_host="127.0.0.1", hub_port=hub.port)
            async with ways_to(sshd, forbidden) as ways:
                await ways.lead_to_hub(True)
                await proved((await way_to(ways, server)).address)
                assert not listens(LOGIN, port + 1)


def listens(host: str, port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((host, port)) == 0


async def test_a_host_key_changes_without_a_cut_where_both_are_pinned(root: Path) -> None:
    with running(root) as sshd:
        new = sshd.make_key("new_host_key")
        sshd.know(sshd.host_key, new)
        async with proving_server(NODE, KEY) as server, ways_to(sshd) as ways:
            way = await way_to(ways, server)
            await proved(way.address)
            sshd.stop()
            await prove(way.address, "/user/ada/", HmacProof(key=KEY))
            sshd.host_key = new
            sshd.start()
            sshd.kill_connections()
            await proved(way.address)
        sshd.know(new)
        async with proving_server(NODE, KEY) as server, ways_to(sshd) as ways:
            await proved((await way_to(ways, server)).address)
        sshd.know(sshd.root / "host_key")
        async with ways_to(sshd) as ways:
            with pytest.raises(LostError, match="host key is not the pinned one"):
                await ways.ssh.get(1.0)


async def test_a_login_node_at_maxstartups_is_tried_until_it_takes_us(root: Path) -> None:
    with running(root, MaxStartups="1") as sshd, not_signed_in(sshd) as first:
        async with proving_server(NODE, KEY) as server, ways_to(sshd) as ways:
            with pytest.raises(LostError, match="no login node answers"):
                await ways.ssh.get(0.5)
            first.close()
            await proved((await way_to(ways, server)).address)


def not_signed_in(sshd: Sshd) -> socket.socket:
    """A connection that sshd waits for to sign in: the one that may, once those before are gone."""
    while True:
        first = socket.create_connection((HOST, sshd.port), timeout=5)
        if first.recv(4) == b"SSH-":
            return first
        first.close()


async def test_killed_and_frozen_connections_come_back_on_the_same_port(root: Path) -> None:
    with running(root) as sshd:
        async with proving_server(NODE, KEY) as server, ways_to(sshd, keepalive_seconds=0.2) as ways:
            way = await way_to(ways, server)
            await proved(way.address)
            for cut in (sshd.kill_connections, sshd.freeze):
                ways.came_back.clear()
                cut()
                await until(lambda: not ways.ssh.connected)
                sshd.thaw()
                await proved(way.address)
                assert ways.came_back.is_set()
