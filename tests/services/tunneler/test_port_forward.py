"""Tunnels over a real SSH server: what they carry, what cuts them, and that they come back on the same port."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import uvloop

from emulators.login_node.node import LoginNode
from schemas.secrets import HmacProof
from services._runtime.configuration import ConfigurationError
from services._runtime.systems import RemoteForward, SshReach
from services.tunneler.listening import PortRange
from services.tunneler.port_forward import SshWays
from services.tunneler.ports import Address, LostError, WrongServerError
from services.tunneler.proof import prove
from tests.support.proving_server import proving_server
from tests.support.samples import new_session
from tests.support.site import login_node

KEY = "ab" * 32


@asynccontextmanager
async def ways_to(folder: Path, node: LoginNode, remote: RemoteForward | None = None) -> AsyncIterator[SshWays]:
    (folder / "known_hosts").write_text(node.known_hosts)
    reach = SshReach(
        login_nodes=[f"{node.configuration.host}:{node.port}"],
        user="farlab",
        key_file=str(folder / "id_ed25519"),
        known_hosts_file=str(folder / "known_hosts"),
        networks=["127.30.0.0/24"],
        connect_seconds=2.0,
        remote_forward=remote,
    )
    ways = SshWays(reach, PortRange("127.0.0.1", (0, 0)))
    await ways.start()
    try:
        yield ways
    finally:
        await ways.close()


async def proved(address: Address, seconds: float = 10.0) -> None:
    async with asyncio.timeout(seconds):
        while True:
            try:
                await prove(address, "/user/ada/", HmacProof(key=KEY))
            except LostError:
                await asyncio.sleep(0.02)
            else:
                return


async def test_a_tunnel_leads_to_its_server_through_the_login_node(tmp_path: Path) -> None:
    async with (
        login_node(tmp_path, host="127.30.0.2", networks=["127.30.0.0/24"]) as node,
        proving_server("127.30.0.11", KEY) as server,
        ways_to(tmp_path, node) as ways,
    ):
        way = await ways.open(new_session(), Address(server.host, server.port), 0)
        await prove(way.address, "/user/ada/", HmacProof(key=KEY))
        assert server.callers == ["127.30.0.2"]
        assert way.address.host == "127.0.0.1"


def test_it_does_so_on_the_loop_that_services_run_on(tmp_path: Path) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(test_a_tunnel_leads_to_its_server_through_the_login_node(tmp_path))


async def test_another_server_at_the_address_is_found_out(tmp_path: Path) -> None:
    async with (
        login_node(tmp_path) as node,
        proving_server("127.30.0.12", "cd" * 32) as server,
        ways_to(tmp_path, node) as ways,
    ):
        way = await ways.open(new_session(), Address(server.host, server.port), 0)
        with pytest.raises(WrongServerError):
            await prove(way.address, "/user/ada/", HmacProof(key=KEY))


async def test_a_cut_connection_comes_back_and_the_port_stays(tmp_path: Path) -> None:
    async with (
        login_node(tmp_path) as node,
        proving_server("127.30.0.13", KEY) as server,
        ways_to(tmp_path, node) as ways,
    ):
        way = await ways.open(new_session(), Address(server.host, server.port), 0)
        await proved(way.address)
        ways.came_back.clear()
        assert node.drop_connections() == 1
        await proved(way.address)
        assert ways.came_back.is_set()


async def test_connections_wait_while_a_login_node_reboots(tmp_path: Path) -> None:
    async with (
        login_node(tmp_path) as node,
        proving_server("127.30.0.14", KEY) as server,
        ways_to(tmp_path, node) as ways,
    ):
        way = await ways.open(new_session(), Address(server.host, server.port), 0)
        await proved(way.address)
        await node.stop()
        waiting = asyncio.create_task(prove(way.address, "/user/ada/", HmacProof(key=KEY)))
        await asyncio.sleep(0)
        await node.start()
        await waiting


async def test_200_connections_at_once(tmp_path: Path) -> None:
    async with (
        login_node(tmp_path) as node,
        proving_server("127.30.0.15", KEY) as server,
        ways_to(tmp_path, node) as ways,
    ):
        way = await ways.open(new_session(), Address(server.host, server.port), 0)
        await proved(way.address)
        await asyncio.gather(*[prove(way.address, "/", HmacProof(key=KEY)) for _ in range(200)])
        assert len(server.callers) == 201


async def test_half_closed_connections_and_much_data_pass(tmp_path: Path) -> None:
    async def upper(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        data = await reader.read()  # until the other side closed its half
        writer.write(data.upper())
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(upper, "127.30.0.16", 0)
    port = server.sockets[0].getsockname()[1]
    async with login_node(tmp_path) as node, ways_to(tmp_path, node) as ways:
        way = await ways.open(new_session(), Address("127.30.0.16", port), 0)
        reader, writer = await asyncio.open_connection(way.address.host, way.address.port)
        sent = b"abcdefgh" * 512 * 1024
        writer.write(sent)
        writer.write_eof()
        async with asyncio.timeout(30):
            assert await reader.read() == sent.upper()
        writer.close()
    server.close()


async def test_a_pinned_host_key_that_does_not_match_is_never_trusted(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    async with login_node(tmp_path) as node, login_node(tmp_path / "other") as other:
        lying = node.known_hosts.split()[0] + " " + " ".join(other.known_hosts.split()[1:]) + "\n"
        (tmp_path / "known_hosts").write_text(lying)
        reach = SshReach(
            login_nodes=[f"127.0.0.1:{node.port}"],
            user="farlab",
            key_file=str(tmp_path / "id_ed25519"),
            known_hosts_file=str(tmp_path / "known_hosts"),
            networks=["127.30.0.0/24"],
        )
        ways = SshWays(reach, PortRange("127.0.0.1", (0, 0)))
        await ways.start()
        with pytest.raises(LostError, match="pinned"):
            await ways.ssh.get(1.0)
        await ways.close()


async def test_a_key_that_others_may_read_is_refused(tmp_path: Path) -> None:
    async with login_node(tmp_path) as node:
        (tmp_path / "id_ed25519").chmod(0o644)
        with pytest.raises(ConfigurationError, match="chmod 600"):
            async with ways_to(tmp_path, node):
                pass


async def test_jobs_reach_the_hub_through_the_login_node_also_after_a_cut(tmp_path: Path) -> None:
    listen = 45_910
    async with (
        proving_server("127.0.0.1", KEY) as hub,
        login_node(tmp_path, listen=[f"127.30.0.3:{listen}"]) as node,
        ways_to(
            tmp_path,
            node,
            RemoteForward(listen_host="127.30.0.3", listen_port=listen, hub_host="127.0.0.1", hub_port=hub.port),
        ) as ways,
    ):
        await ways.lead_to_hub(True)
        await proved(Address("127.30.0.3", listen))
        node.drop_connections()
        await proved(Address("127.30.0.3", listen))
        await ways.lead_to_hub(False)
        with pytest.raises(LostError):
            await prove(Address("127.30.0.3", listen), "/", HmacProof(key=KEY))
