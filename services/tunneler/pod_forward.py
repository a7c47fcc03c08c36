"""Leads to pods through an API server's port-forward: for clusters with no other way in. Chooses no target.

Each connection that comes in becomes a websocket of its own (`v4.channel.k8s.io`): every frame begins with its
channel, 0 for data and 1 for what went wrong, and the first frame of each names the port in two bytes.
"""

from __future__ import annotations

import asyncio
import contextlib

import aiohttp
import structlog

from schemas.base import SessionId
from services._runtime.api_server import ApiServer
from services._runtime.errors import TransientError
from services._runtime.tasks import end
from services.tunneler.listening import BACKLOG, PortRange, PromisedPorts
from services.tunneler.ports import Address, LostError

_log = structlog.get_logger("farlab.tunneler.pods")

PROTOCOL = "v4.channel.k8s.io"
DATA, TROUBLE = 0, 1
CHUNK_BYTES = 64 * 1024
PORT_BYTES = 2


class PodForward:
    """A listener on our side that leads to one port of one pod."""

    via = "port-forward"

    def __init__(self, ways: PodWays, target: Address) -> None:
        self._ways = ways
        self.target = target
        self.address = Address("", 0)
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def listen(self, host: str, port: int) -> None:
        """Listens. Raises OSError when the port is taken."""
        self._server = await asyncio.start_server(self._accepted, host, port, backlog=BACKLOG, limit=CHUNK_BYTES)
        self.address = Address(host, self._server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        """Listens no more and ends every connection."""
        if self._server is not None:
            self._server.close()
            self._server = None
        await end(self._tasks)

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._lead(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _lead(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            socket = await self._ways.connect(self.target)
        except TransientError as error:
            _log.info("connection closed", port=self.address.port, reason=error.reason)
            writer.close()
            return
        directions = [asyncio.create_task(_there(reader, socket)), asyncio.create_task(_back(socket, writer))]
        try:
            await asyncio.wait(directions, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await end(directions)
            writer.close()
            with contextlib.suppress(aiohttp.ClientError, OSError, TimeoutError):
                await socket.close()


async def _there(reader: asyncio.StreamReader, socket: aiohttp.ClientWebSocketResponse) -> None:
    """The protocol has no half-closed connections: whoever comes to its end here ends the connection."""
    with contextlib.suppress(aiohttp.ClientError, OSError):
        while data := await reader.read(CHUNK_BYTES):
            await socket.send_bytes(bytes([DATA]) + data)


async def _back(socket: aiohttp.ClientWebSocketResponse, writer: asyncio.StreamWriter) -> None:
    named: set[int] = set()
    with contextlib.suppress(aiohttp.ClientError, OSError):
        async for message in socket:
            if message.type is not aiohttp.WSMsgType.BINARY or not message.data:
                continue
            channel, data = message.data[0], message.data[1:]
            if channel not in named:
                named.add(channel)
                data = data[PORT_BYTES:]
            if channel == TROUBLE and data:
                _log.info("the pod does not take the connection", reason=data[:300].decode(errors="replace"))
                return
            if channel == DATA and data:
                writer.write(data)
                await writer.drain()


class PodWays:
    """All ways to the servers of one cloud, over its API server."""

    def __init__(
        self, api: ApiServer, *, bind_host: str, ports: tuple[int, int], promised: PromisedPorts | None = None
    ) -> None:
        self._api = api
        self._range = PortRange(bind_host, ports, promised)
        self._forwards: dict[SessionId, PodForward] = {}
        self._away = False
        self.came_back = asyncio.Event()

    async def start(self) -> None:
        """Nothing to keep up: every connection is one of its own."""

    async def open(self, session: SessionId, target: Address, wanted_port: int) -> PodForward:
        """See `ports.Ways`. The target's host is that of the session's service, which has the pod's name."""
        earlier = self._forwards.get(session)
        if earlier is not None and earlier.target == target:
            return earlier
        await self.forget(session)
        if target.host.count(".") < 1:
            raise LostError(f"{target.host} names no pod and namespace")
        forward = PodForward(self, target)
        await self._range.listen(forward.listen, wanted_port, session)
        self._forwards[session] = forward
        return forward

    async def connect(self, target: Address) -> aiohttp.ClientWebSocketResponse:
        """A connection to the target. Raises TransientError."""
        pod, namespace = target.host.split(".")[:2]
        path = f"/api/v1/namespaces/{namespace}/pods/{pod}/portforward"
        try:
            socket = await self._api.websocket(path, {"ports": str(target.port)}, PROTOCOL)
        except TransientError:
            self._away = True
            raise
        if self._away:
            self._away = False
            self.came_back.set()
        return socket

    async def forget(self, session: SessionId) -> None:
        """Closes the way to a session's server. Safe to repeat."""
        if (forward := self._forwards.pop(session, None)) is not None:
            await forward.close()

    async def close(self) -> None:
        """Closes every way."""
        for session in list(self._forwards):
            await self.forget(session)
        await self._api.close()

    async def lead_to_hub(self, serve: bool) -> None:
        """Pods reach the hub themselves."""
