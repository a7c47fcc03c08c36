"""Port-forward over a WebSocket, as `v4.channel.k8s.io` has it. One connection to the pod for each port named.

Channel 2n carries the data of the n-th port and 2n+1 its error, each begun by the port as two bytes, little end first.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct

from aiohttp import WSMsgType, web

from emulators.cluster.refusals import RefusedError

PROTOCOL = "v4.channel.k8s.io"
CHUNK_BYTES = 64 * 1024


async def forward(request: web.Request, address: str) -> web.WebSocketResponse:
    """Serves one port-forward request until either side ends. Raises RefusedError (400)."""
    try:
        ports = [int(port) for value in request.query.getall("ports", []) for port in value.split(",")]
    except ValueError:
        ports = []
    if not ports or not all(0 < port < 65_536 for port in ports):
        raise RefusedError(400, 'query parameter "ports" is required')
    socket = web.WebSocketResponse(protocols=(PROTOCOL,), max_msg_size=0)
    if PROTOCOL not in request.headers.get("Sec-WebSocket-Protocol", ""):
        raise RefusedError(400, f"the subprotocol {PROTOCOL} is required")
    await socket.prepare(request)
    for channel, port in enumerate(ports):
        for each in (2 * channel, 2 * channel + 1):
            await socket.send_bytes(bytes([each]) + struct.pack("<H", port))
    writers: dict[int, asyncio.StreamWriter] = {}
    readers = []
    for channel, port in enumerate(ports):
        try:
            reader, writers[2 * channel] = await asyncio.open_connection(address, port)
        except OSError as error:
            told = f"error forwarding port {port} to pod: failed to connect to localhost:{port}: {error.strerror}"
            await socket.send_bytes(bytes([2 * channel + 1]) + told.encode())
        else:
            readers.append(asyncio.create_task(_back(socket, 2 * channel, reader)))
    try:
        if readers:
            into = asyncio.create_task(_into(socket, writers))
            await asyncio.wait({into, *readers}, return_when=asyncio.FIRST_COMPLETED)
            into.cancel()
            await asyncio.gather(into, return_exceptions=True)
    finally:
        for task in readers:
            task.cancel()
        await asyncio.gather(*readers, return_exceptions=True)
        for writer in writers.values():
            writer.close()
        with contextlib.suppress(ConnectionError):
            await socket.close()
    return socket


async def _into(socket: web.WebSocketResponse, writers: dict[int, asyncio.StreamWriter]) -> None:
    async for message in socket:
        if message.type is not WSMsgType.BINARY or not message.data or message.data[0] not in writers:
            continue
        writer = writers[message.data[0]]
        writer.write(message.data[1:])
        with contextlib.suppress(ConnectionError):
            await writer.drain()


async def _back(socket: web.WebSocketResponse, channel: int, reader: asyncio.StreamReader) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(CHUNK_BYTES):
            await socket.send_bytes(bytes([channel]) + data)
