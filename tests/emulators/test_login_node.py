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
    return await asyncssh.connect(node.configuration.host, node.port, **settings)  # type: ignore[arg-type]


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
