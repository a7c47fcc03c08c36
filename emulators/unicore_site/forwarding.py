"""A connection through the site to a port of a running job's node, as UNICORE/X forwards it. Looks into nothing."""

from __future__ import annotations

import asyncio

from aiohttp import web

from emulators.unicore_site.identity import LIFETIME_HEADER, SESSION, SESSION_HEADER
from emulators.unicore_site.jobs import Job
from emulators.unicore_site.refusals import RefusedError

PROTOCOL = "UNICORE-Socket-Forwarding"
PIECE_BYTES = 64 * 1024


async def forward(request: web.Request, job: Job) -> web.Response:
    """Switches protocols and carries bytes until a side ends; without that wish, says that it could."""
    if request.headers.get("Upgrade", "").casefold() != PROTOCOL.casefold():
        return web.json_response({"status": "Nothing to see here yet."})
    try:
        host, port = request.query.get("host") or job.node.partition(",")[0] or "localhost", int(request.query["port"])
        reader, writer = await asyncio.open_connection(host, port)
    except (OSError, KeyError, ValueError) as error:
        raise RefusedError(500, f"Could not connect to backend service: {error}") from None
    transport = request.transport
    if transport is None:
        writer.close()
        raise RefusedError(500, "The caller is gone.")
    loop = asyncio.get_running_loop()
    from_caller = asyncio.StreamReader(loop=loop)
    protocol = asyncio.StreamReaderProtocol(from_caller, loop=loop)
    transport.set_protocol(protocol)
    protocol.connection_made(transport)
    to_caller = asyncio.StreamWriter(transport, protocol, from_caller, loop)
    session = request[SESSION]
    head = [
        "HTTP/1.1 101 Switching Protocols",
        f"{SESSION_HEADER}: {session.id}",
        f"{LIFETIME_HEADER}: {int(session.left_seconds() * 1000)}",
        f"Upgrade: {PROTOCOL}",
    ]
    to_caller.write("\r\n".join([*head, "", ""]).encode())
    await asyncio.gather(_carry(from_caller, writer), _carry(reader, to_caller), return_exceptions=True)
    return web.Response()


async def _carry(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    try:
        while piece := await source.read(PIECE_BYTES):
            target.write(piece)
            await target.drain()
    finally:
        target.close()
