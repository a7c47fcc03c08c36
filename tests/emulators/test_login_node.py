from __future__ import annotations

import asyncio
from pathlib import Path

import asyncssh
import pytest

from emulators.login_node.node import LoginNode
from tests.support.site import login_node


async def connect(folder: Path, node: LoginNode, **options: object) -> asyncssh.SSHClientConnection:
    known = asyncssh.import_known_hosts(node.known_hosts)
    settings: dict[str, object] = {
        "known_hosts": known,
        "username": "farlab",
        "client_keys": [str(folder / "id_ed25519")],
        "agent_path": None,
        "config": None,
        **options,
    }
    return await asyncssh.connect(node.configuration.host, node.port, **settings)


async def who_calls(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(1)
    writer.write(str(writer.get_extra_info("peername")[0]).encode())
    writer.close()


async def test_it_forwards_to_compute_nodes_from_its_own_address(tmp_path: Path) -> None:
    server = await asyncio.start_server(who_calls, "127.30.0.11", 0)
    port = server.sockets[0].getsockname()[1]
    async with (
        login_node(tmp_path, host="127.30.0.2", networks=["127.30.0.0/24"]) as node,
        await connect(tmp_path, node) as ssh,
    ):
        reader, writer = await ssh.open_connection("127.30.0.11", port)
        writer.write(b"?")
        assert await reader.read() == b"127.30.0.2"
        with pytest.raises(asyncssh.ChannelOpenError):
            await ssh.open_connection("127.0.0.1", port)
        with pytest.raises(asyncssh.ChannelOpenError):
            await ssh.open_connection("127.30.0.11", 22)
        assert (node.opened, node.refused) == (1, 2)
    server.close()


async def test_it_lets_only_the_known_key_of_the_known_user_in_and_runs_nothing(tmp_path: Path) -> None:
    async with login_node(tmp_path) as node:
        stranger = asyncssh.generate_private_key("ssh-ed25519")
        with pytest.raises(asyncssh.PermissionDenied):
            await connect(tmp_path, node, client_keys=[stranger])
        async with await connect(tmp_path, node) as ssh:
            with pytest.raises((asyncssh.ChannelOpenError, asyncssh.ProcessError)):
                await ssh.run("id", check=True)


async def test_it_listens_only_where_it_is_told(tmp_path: Path) -> None:
    async with login_node(tmp_path, listen=["127.30.0.2:45871"]) as node, await connect(tmp_path, node) as ssh:
        listener = await ssh.forward_remote_port("127.30.0.2", 45871, "127.0.0.1", 1)
        listener.close()
        with pytest.raises(asyncssh.ChannelListenError):
            await ssh.forward_remote_port("127.30.0.2", 45872, "127.0.0.1", 1)


async def test_its_host_key_stays_over_a_restart(tmp_path: Path) -> None:
    async with login_node(tmp_path) as node:
        first = node.known_hosts
        await node.stop()
        await node.start()
        assert node.known_hosts == first
        async with await connect(tmp_path, node):
            assert node.drop_connections() == 1


async def test_another_user_has_no_key_here(tmp_path: Path) -> None:
    async with login_node(tmp_path, listen=["127.30.0.2:45873"]) as node:
        for username in ("root", "Farlab", "farlab ", ""):
            with pytest.raises((asyncssh.PermissionDenied, asyncssh.ConnectionLost)):
                await connect(tmp_path, node, username=username)
        with pytest.raises(asyncssh.PermissionDenied):
            await connect(tmp_path, node, client_keys=None, password="farlab")


async def test_it_gives_no_files_no_terminal_no_agent_and_no_sockets(tmp_path: Path) -> None:
    async with login_node(tmp_path) as node, await connect(tmp_path, node) as ssh:
        refusals = (asyncssh.ChannelOpenError, asyncssh.ProcessError)
        with pytest.raises(refusals):
            await ssh.start_sftp_client()
        with pytest.raises(refusals):
            await ssh.create_process(term_type="xterm")
        with pytest.raises(refusals):
            await ssh.open_unix_connection(str(tmp_path / "id_ed25519"))
        with pytest.raises(asyncssh.ChannelListenError):
            await ssh.forward_remote_path(str(tmp_path / "socket"), str(tmp_path / "other"))
        assert not (tmp_path / "socket").exists()


@pytest.mark.parametrize("target", ["localhost", "127.0.0.1.", "::1", "0.0.0.0", "127.30.1.1", "", "a b"])
async def test_targets_are_addresses_of_compute_nodes(tmp_path: Path, target: str) -> None:
    async with login_node(tmp_path, networks=["127.30.0.0/24"]) as node, await connect(tmp_path, node) as ssh:
        with pytest.raises(asyncssh.ChannelOpenError, match="no compute node"):
            await ssh.open_connection(target, 40_000)
        assert (node.opened, node.refused) == (0, 1)


async def test_a_closed_port_is_told_and_does_not_count_as_opened(tmp_path: Path) -> None:
    server = await asyncio.start_server(who_calls, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    async with login_node(tmp_path) as node, await connect(tmp_path, node) as ssh:
        with pytest.raises(asyncssh.ChannelOpenError) as caught:
            await ssh.open_connection("127.0.0.1", port)
        assert caught.value.code == asyncssh.OPEN_CONNECT_FAILED
        assert (node.opened, node.refused) == (0, 1)


async def test_a_job_reaches_a_client_through_a_granted_listener(tmp_path: Path) -> None:
    server = await asyncio.start_server(who_calls, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with login_node(tmp_path, host="127.30.0.2", listen=["127.30.0.2:45874"]) as node:
        async with await connect(tmp_path, node) as ssh:
            await ssh.forward_remote_port("127.30.0.2", 45874, "127.0.0.1", port)
            reader, writer = await asyncio.open_connection("127.30.0.2", 45874)
            writer.write(b"?")
            assert await reader.read() == b"127.0.0.1"
            writer.close()
            assert node.listening == 1
        async with asyncio.timeout(10):
            while node.connected:
                await asyncio.sleep(0.01)
        with pytest.raises(OSError):
            await asyncio.open_connection("127.30.0.2", 45874)
    server.close()


async def test_a_cut_ends_what_goes_through_it_and_the_port_stays(tmp_path: Path) -> None:
    server = await asyncio.start_server(who_calls, "127.0.0.1", 0)
    async with login_node(tmp_path) as node:
        port = node.port
        ssh = await connect(tmp_path, node)
        reader, _ = await ssh.open_connection("127.0.0.1", server.sockets[0].getsockname()[1])
        await node.stop()
        with pytest.raises(asyncssh.ConnectionLost):
            await reader.read()
        with pytest.raises(OSError):
            await connect(tmp_path, node)
        await node.start()
        assert node.port == port
        async with await connect(tmp_path, node) as again:
            reader, writer = await again.open_connection("127.0.0.1", server.sockets[0].getsockname()[1])
            writer.write(b"?")
            assert await reader.read()
    server.close()
