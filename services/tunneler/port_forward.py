"""Forwards ports over a login node's connection: listeners of our own that outlive it. Chooses no target.

A listener keeps its port for the life of the tunnel; each connection it accepts becomes a `direct-tcpip` channel
(RFC 4254, 7.2) to the one target it was opened for. While the SSH connection is being made anew, connections wait.
"""

from __future__ import annotations

import asyncio
import contextlib

import asyncssh
import structlog
from asyncssh.forward import SSHForwarder

from schemas.base import SessionId
from services._runtime.systems import RemoteForward, SshReach
from services.tunneler.listening import BACKLOG, Listeners, PortRange
from services.tunneler.ports import Address, LostError
from services.tunneler.ssh import LoginNodeConnection

_log = structlog.get_logger("farlab.tunneler.forward")

PACKET_BYTES = 128 * 1024
"""The largest piece of data a login node may send at once: asyncssh's cost is per packet, by default of 32 KiB."""
PATIENCE_SECONDS = 10.0
"""How long a connection waits for the way to come back before it is closed."""


class LocalForward:
    """A listener on our side that leads to one target behind the login node."""

    def __init__(self, ssh: LoginNodeConnection, target: Address) -> None:
        self._ssh = ssh
        self.target = target
        self._server: asyncio.Server | None = None
        self._open: set[_Accepted] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.address = Address("", 0)

    @property
    def via(self) -> str:
        """The login node, as it is now."""
        return self._ssh.host

    async def listen(self, host: str, port: int) -> None:
        """Listens. Raises OSError when the port is taken."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Accepted(self), host, port, backlog=BACKLOG)
        self.address = Address(host, self._server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        """Listens no more and ends every connection."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for task in list(self._tasks):
            task.cancel()
        for accepted in list(self._open):
            accepted.close()

    def accepted(self, connection: _Accepted) -> None:
        """A connection came in: leads it to the target."""
        self._open.add(connection)
        task = asyncio.create_task(self._lead(connection))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def ended(self, connection: _Accepted) -> None:
        """A connection is gone."""
        self._open.discard(connection)

    async def _lead(self, connection: _Accepted) -> None:
        try:
            ssh = await self._ssh.get(PATIENCE_SECONDS)
            await ssh.create_connection(  # bytes in, bytes out: a forwarder is a session of no encoding
                lambda: SSHForwarder(connection),  # type: ignore[arg-type, return-value]
                self.target.host,
                self.target.port,
                *connection.origin,
                max_pktsize=PACKET_BYTES,
            )
            connection.go()
        except (LostError, asyncssh.Error, OSError) as error:
            _log.info("connection closed", port=self.address.port, reason=str(error))
            connection.close()


class _Accepted(SSHForwarder):
    """A connection that came in, held until its channel is open."""

    def __init__(self, forward: LocalForward) -> None:
        super().__init__()
        self._forward = forward
        self.origin: tuple[str, int] = ("", 0)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        peer = transport.get_extra_info("peername") or ("", 0)
        self.origin = (str(peer[0]), int(peer[1]))
        self.pause_reading()
        self._forward.accepted(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._forward.ended(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes, datatype: int | None = None) -> None:
        super().data_received(data, datatype)
        if self._peer is None and self._transport is not None:
            self.pause_reading()  # uvloop forgets a pause asked for before it began to read

    def go(self) -> None:
        """The channel is open: lets the data flow, first what came before."""
        if self._transport is None or self._peer is None:
            self.close()
            return
        early, self._inpbuf = self._inpbuf, b""
        if early:
            self._peer.write(early)
        if self._eof_received:
            self._peer.write_eof()
        self.resume_reading()


class SshWays:
    """All ways to the servers of one system, over one connection to its login nodes."""

    def __init__(self, reach: SshReach, ports: PortRange) -> None:
        self._reach = reach
        self._listeners: Listeners[LocalForward] = Listeners(ports)
        self._listens_for_hub: asyncssh.SSHListener | None = None
        self.came_back = asyncio.Event()
        self.ssh = LoginNodeConnection(reach, self._established)
        self.serve_hub = False

    async def start(self) -> None:
        """Begins to keep the connection up."""
        self.ssh.start()

    async def open(self, session: SessionId, target: Address, wanted_port: int) -> LocalForward:
        """See `ports.Ways`."""
        return await self._listeners.open(session, target, wanted_port, lambda: LocalForward(self.ssh, target))

    async def forget(self, session: SessionId) -> None:
        """Closes the way to a session's server. Safe to repeat."""
        await self._listeners.forget(session)

    async def close(self) -> None:
        """Closes every way and the connection."""
        await self._listeners.close()
        await self.ssh.close()

    async def lead_to_hub(self, serve: bool) -> None:
        """Begins, or ceases, to be the one that lets jobs reach the hub through the login node."""
        self.serve_hub = serve
        if serve and self.ssh.connected:
            with contextlib.suppress(LostError):
                await self._forward_back(await self.ssh.get(0.1))
        elif not serve and self._listens_for_hub is not None:
            self._listens_for_hub.close()
            self._listens_for_hub = None

    async def _established(self, connection: asyncssh.SSHClientConnection) -> None:
        self._listens_for_hub = None
        self.came_back.set()
        if self.serve_hub:
            await self._forward_back(connection)

    async def _forward_back(self, connection: asyncssh.SSHClientConnection) -> None:
        back: RemoteForward | None = self._reach.remote_forward
        if back is None or self._listens_for_hub is not None:
            return
        while True:
            try:
                self._listens_for_hub = await connection.forward_remote_port(
                    back.listen_host, back.listen_port, back.hub_host, back.hub_port
                )
            except asyncssh.ChannelListenError as error:
                _log.warning(
                    "jobs cannot reach the hub yet", listen=f"{back.listen_host}:{back.listen_port}", reason=str(error)
                )
                await asyncio.sleep(1.0)
                continue
            _log.info("jobs reach the hub", listen=f"{back.listen_host}:{back.listen_port}", login_node=self.ssh.host)
            return


class DirectWay:
    """No way at all: the hub reaches the compute node itself."""

    via = "direct"

    def __init__(self, target: Address) -> None:
        self.address = target

    async def close(self) -> None:
        """Nothing to end."""


class DirectWays:
    """The servers of a system whose compute nodes the hub reaches itself."""

    def __init__(self) -> None:
        self.came_back = asyncio.Event()

    async def start(self) -> None:
        """Nothing to keep up."""

    async def open(self, session: SessionId, target: Address, wanted_port: int) -> DirectWay:
        """See `ports.Ways`."""
        del session, wanted_port
        return DirectWay(target)

    async def forget(self, session: SessionId) -> None:
        """Nothing to close."""

    async def close(self) -> None:
        """Nothing to close."""

    async def lead_to_hub(self, serve: bool) -> None:
        """Jobs reach the hub themselves."""
