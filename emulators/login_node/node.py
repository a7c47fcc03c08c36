"""An SSH server on an address of its own that forwards only to compute nodes. No shell, no files, no agent.

A stand-in for development and tests; it must never be used for production.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import os
import tomllib
from pathlib import Path
from typing import Annotated

import asyncssh
import msgspec
from asyncssh.forward import SSHForwarder
from msgspec import Meta

Port = Annotated[int, Meta(ge=0, le=65_535)]


class LoginNodeConfiguration(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An emulated login node.

    `networks` and `ports` bound what may be reached, `listen` names the `host:port` pairs a client may listen on.
    """

    folder: str
    host: str = "127.0.0.1"
    port: Port = 0
    user: str = "farlab"
    authorized_keys: list[str]
    networks: list[str]
    ports: tuple[Port, Port] = (1024, 65_535)
    listen: list[str] = []

    def __post_init__(self) -> None:
        for network in self.networks:
            ipaddress.ip_network(network)
        self.keys()

    def keys(self) -> asyncssh.SSHAuthorizedKeys:
        """The keys that are let in. Raises ValueError when one of them is not one."""
        return asyncssh.import_authorized_keys("\n".join(self.authorized_keys))


def load(file: Path) -> LoginNodeConfiguration:
    """The configuration in a file. Raises ValueError with one line that names what is wrong."""
    try:
        return msgspec.convert(tomllib.loads(file.read_text()), LoginNodeConfiguration)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise ValueError(f"{file}: {error}") from None


class LoginNode:
    """One emulated login node: `async with LoginNode(configuration) as node: node.port`.

    Connections to compute nodes come from the login node's own address, so that a server sees which way they came.
    `opened` counts the forwarded connections, `refused` those that were not, `listening` the granted remote forwards.
    """

    def __init__(self, configuration: LoginNodeConfiguration) -> None:
        self.configuration = configuration
        self.folder = Path(configuration.folder).absolute()
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.port = configuration.port
        self.keys = configuration.keys()
        self.opened = 0
        self.refused = 0
        self.listening = 0
        self._networks = [ipaddress.ip_network(network) for network in configuration.networks]
        self._connections: set[asyncssh.SSHServerConnection] = set()
        self._acceptor: asyncssh.SSHAcceptor | None = None
        self._key = self._host_key()

    @property
    def known_hosts(self) -> str:
        """The line that pins this node's host key."""
        public = " ".join(self._key.export_public_key().decode().split()[:2])
        return f"[{self.configuration.host}]:{self.port} {public}\n"

    @property
    def connected(self) -> int:
        """How many clients are connected."""
        return len(self._connections)

    async def __aenter__(self) -> LoginNode:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listens, on the port it had before if it had one. Raises OSError when it cannot."""
        self._acceptor = await asyncssh.listen(
            self.configuration.host,
            self.port,
            server_factory=lambda: _Server(self),
            server_host_keys=[self._key],
            agent_forwarding=False,
            x11_forwarding=False,
            allow_pty=False,
            encryption_algs=["aes128-gcm@openssh.com", "aes256-gcm@openssh.com", "chacha20-poly1305@openssh.com"],
            backlog=1024,
            reuse_address=True,
        )
        self.port = self._acceptor.get_port()
        (self.folder / "known_hosts").write_text(self.known_hosts)
        temporary = self.folder / "ports.json.new"
        temporary.write_text(json.dumps({"host": self.configuration.host, "port": self.port}))
        temporary.replace(self.folder / "ports.json")

    async def stop(self) -> None:
        """Ends all connections and listens no more."""
        (self.folder / "ports.json").unlink(missing_ok=True)
        if self._acceptor is not None:
            self._acceptor.close()
            self.drop_connections()
            await self._acceptor.wait_closed()
            self._acceptor = None

    def drop_connections(self) -> int:
        """Cuts every connection, as a reboot does; how many there were."""
        connections = list(self._connections)
        for connection in connections:
            connection.abort()
        return len(connections)

    def _host_key(self) -> asyncssh.SSHKey:
        file = self.folder / "ssh_host_ed25519_key"
        if not file.exists():
            key = asyncssh.generate_private_key("ssh-ed25519")
            temporary = file.with_suffix(".new")
            with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as opened:
                opened.write(key.export_private_key())
            temporary.replace(file)
        return asyncssh.read_private_key(file)

    def may_reach(self, host: str, port: int) -> bool:
        """Whether a target lies on a compute node. Names are not resolved: no compute node has one here."""
        low, high = self.configuration.ports
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            return False
        return low <= port <= high and any(address in network for network in self._networks)

    def joined(self, connection: asyncssh.SSHServerConnection) -> None:
        """A client is connected."""
        self._connections.add(connection)

    def left(self, connection: asyncssh.SSHServerConnection | None) -> None:
        """A client is gone."""
        if connection is not None:
            self._connections.discard(connection)


class _Server(asyncssh.SSHServer):
    def __init__(self, node: LoginNode) -> None:
        self._node = node
        self._connection: asyncssh.SSHServerConnection | None = None

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._connection = conn
        self._node.joined(conn)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._node.left(self._connection)

    def begin_auth(self, username: str) -> bool:
        """Nobody but the configured user has keys here."""
        if self._connection is not None and username == self._node.configuration.user:
            self._connection.set_authorized_keys(self._node.keys)
        return True

    def public_key_auth_supported(self) -> bool:
        return True

    async def connection_requested(
        self, dest_host: str, dest_port: int, orig_host: str, orig_port: int
    ) -> asyncssh.SSHTCPSession[bytes]:
        del orig_host, orig_port
        node = self._node
        if not node.may_reach(dest_host, dest_port):
            node.refused += 1
            raise asyncssh.ChannelOpenError(
                asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED, f"{dest_host}:{dest_port} is no compute node"
            )
        try:
            _, forwarder = await asyncio.get_running_loop().create_connection(
                SSHForwarder, dest_host, dest_port, local_addr=(node.configuration.host, 0)
            )
        except OSError as error:
            node.refused += 1
            raise asyncssh.ChannelOpenError(asyncssh.OPEN_CONNECT_FAILED, error.strerror or str(error)) from None
        node.opened += 1
        return SSHForwarder(forwarder)  # type: ignore[return-value]

    def server_requested(self, listen_host: str, listen_port: int) -> bool:
        granted = f"{listen_host}:{listen_port}" in self._node.configuration.listen
        if granted:
            self._node.listening += 1
        return granted
