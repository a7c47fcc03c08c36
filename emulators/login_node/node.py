"""An SSH server on an address of its own that forwards only to compute nodes. No shell, no files, no agent."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import tomllib
from pathlib import Path

import asyncssh
import msgspec
from asyncssh.forward import SSHForwarder


class LoginNodeConfiguration(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An emulated login node.

    `networks` and `ports` bound what may be reached, `listen` names the `host:port` pairs a client may listen on.
    """

    folder: str
    host: str = "127.0.0.1"
    port: int = 0
    user: str = "farlab"
    authorized_keys: list[str]
    networks: list[str]
    ports: tuple[int, int] = (1024, 65_535)
    listen: list[str] = []


def load(file: Path) -> LoginNodeConfiguration:
    """The configuration in a file. Raises ValueError with one line that names what is wrong."""
    try:
        return msgspec.convert(tomllib.loads(file.read_text()), LoginNodeConfiguration)
    except (OSError, tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise ValueError(f"{file}: {error}") from None


class LoginNode:
    """One emulated login node: `async with LoginNode(configuration) as node: node.port`.

    Connections to compute nodes come from the login node's own address, so that a server sees which way they came.
    """

    def __init__(self, configuration: LoginNodeConfiguration) -> None:
        self.configuration = configuration
        self.folder = Path(configuration.folder).absolute()
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.port = configuration.port
        self.opened = 0
        self.refused = 0
        self._networks = [ipaddress.ip_network(network) for network in configuration.networks]
        self._connections: set[asyncssh.SSHServerConnection] = set()
        self._acceptor: asyncssh.SSHAcceptor | None = None
        self._key = self._host_key()

    @property
    def known_hosts(self) -> str:
        """The line that pins this node's host key."""
        public = " ".join(self._key.export_public_key().decode().split()[:2])
        return f"[{self.configuration.host}]:{self.port} {public}\n"

    async def __aenter__(self) -> LoginNode:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listens, on the port it had before if it had one."""
        self._acceptor = await asyncssh.listen(
            self.configuration.host,
            self.port,
            server_factory=lambda: _Server(self),
            server_host_keys=[self._key],
            authorized_client_keys=asyncssh.import_authorized_keys("\n".join(self.configuration.authorized_keys)),
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
            file.touch(mode=0o600)
            file.write_bytes(key.export_private_key())
        return asyncssh.read_private_key(file)

    def may_reach(self, host: str, port: int) -> bool:
        """Whether a target lies on a compute node."""
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
        del username
        return True

    def public_key_auth_supported(self) -> bool:
        return True

    async def connection_requested(  # type: ignore[override]
        self, dest_host: str, dest_port: int, orig_host: str, orig_port: int
    ) -> asyncssh.SSHTCPSession[bytes] | bool:
        del orig_host, orig_port
        node = self._node
        if self._connection is None or self._connection.get_extra_info("username") != node.configuration.user:
            return False
        if not node.may_reach(dest_host, dest_port):
            node.refused += 1
            raise asyncssh.ChannelOpenError(
                asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED, f"{dest_host}:{dest_port} is no compute node"
            )
        node.opened += 1
        try:
            _, forwarder = await asyncio.get_running_loop().create_connection(
                SSHForwarder, dest_host, dest_port, local_addr=(node.configuration.host, 0)
            )
        except OSError as error:
            raise asyncssh.ChannelOpenError(asyncssh.OPEN_CONNECT_FAILED, error.strerror or str(error)) from None
        return SSHForwarder(forwarder)  # type: ignore[return-value]

    def server_requested(self, listen_host: str, listen_port: int) -> bool:
        return f"{listen_host}:{listen_port}" in self._node.configuration.listen
