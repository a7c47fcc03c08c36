"""Reaches pods through an API server's port-forward: for clusters with no other way in. Chooses no target.

Each connection is a websocket of its own (`v4.channel.k8s.io`): every frame begins with its channel, 0 for data and 1
for what went wrong, and the first frame of each names the port in two bytes.
"""

from __future__ import annotations

import asyncio
import contextlib

import aiohttp
import structlog

from services._runtime.api_server import ApiServer
from services._runtime.errors import TransientError
from services.tunneler.ports import LostError, Target
from services.tunneler.stream_forward import CHUNK_BYTES

_log = structlog.get_logger("farlab.tunneler.pods")

PROTOCOL = "v4.channel.k8s.io"
DATA, TROUBLE = 0, 1
PORT_BYTES = 2


class ApiServerSide:
    """The pods of one cloud, over its API server."""

    via = "port-forward"

    def __init__(self, api: ApiServer) -> None:
        self._api = api

    async def connect(self, target: Target) -> PodConnection:
        """See `stream_forward.FarSide`. A target's host is that of the session's service, which has the pod's name."""
        pod, _, rest = target.host.partition(".")
        namespace = rest.split(".")[0]
        if not namespace:
            raise LostError(f"{target.host} names no pod and namespace")
        path = f"/api/v1/namespaces/{namespace}/pods/{pod}/portforward"
        try:
            return PodConnection(await self._api.websocket(path, {"ports": str(target.port)}, PROTOCOL))
        except TransientError as error:
            raise LostError(error.reason) from None

    async def close(self) -> None:
        """Closes the connections to the API server."""
        await self._api.close()


class PodConnection:
    """See `stream_forward.Far`: one websocket."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket

    async def carry_there(self, reader: asyncio.StreamReader) -> None:
        """Frames what comes in as data."""
        with contextlib.suppress(aiohttp.ClientError, OSError):
            while data := await reader.read(CHUNK_BYTES):
                await self._socket.send_bytes(bytes([DATA]) + data)

    async def carry_back(self, writer: asyncio.StreamWriter) -> None:
        """Unframes what the pod says, until it says that something is wrong."""
        named: set[int] = set()
        with contextlib.suppress(aiohttp.ClientError, OSError):
            async for message in self._socket:
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

    async def close(self) -> None:
        """Closes the websocket."""
        with contextlib.suppress(aiohttp.ClientError, OSError, TimeoutError):
            await self._socket.close()
