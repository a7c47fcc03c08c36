"""Leads each connection that comes in over a far one of its own, which an adapter makes. Knows no protocol.

For sites that forward themselves, where no login node is: nothing is kept up between connections, and neither protocol
spoken there has half-closed ones, so whichever side comes to its end ends the connection.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Protocol

import structlog

from schemas.base import SessionId
from services._runtime.tasks import end
from services.tunneler.listening import BACKLOG, Listeners, PortRange
from services.tunneler.ports import Address, LostError, Target

_log = structlog.get_logger("farlab.tunneler.stream")

CHUNK_BYTES = 64 * 1024


class Far(Protocol):
    """One connection to a server, on the site's side. It raises nothing when it is lost: that is its end."""

    async def carry_there(self, reader: asyncio.StreamReader) -> None:
        """Carries what comes in until its end."""

    async def carry_back(self, writer: asyncio.StreamWriter) -> None:
        """Carries what the server says until its end."""

    async def close(self) -> None:
        """Ends it."""


class FarSide(Protocol):
    """How far connections of one system are made."""

    via: str

    async def connect(self, target: Target) -> Far:
        """A connection to the target. Raises LostError."""

    async def close(self) -> None:
        """Lets go of what connections share."""


class StreamForward:
    """A listener on our side that leads to one server."""

    def __init__(self, ways: StreamWays, target: Target) -> None:
        self._ways = ways
        self.via = ways.via
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
            far = await self._ways.connect(self.target)
        except LostError as error:
            _log.info("connection closed", port=self.address.port, via=self.via, reason=str(error))
            writer.close()
            return
        directions = [asyncio.create_task(far.carry_there(reader)), asyncio.create_task(far.carry_back(writer))]
        try:
            await asyncio.wait(directions, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await end(directions)
            writer.close()
            await far.close()


class StreamWays:
    """All ways to the servers of one system, over what its site forwards."""

    def __init__(self, site: FarSide, ports: PortRange) -> None:
        self._site = site
        self.via = site.via
        self._listeners: Listeners[StreamForward] = Listeners(ports)
        self._away = False
        self.came_back = asyncio.Event()

    async def start(self) -> None:
        """Nothing to keep up: every connection is one of its own."""

    async def open(self, session: SessionId, target: Target, wanted_port: int) -> StreamForward:
        """See `ports.Ways`."""
        return await self._listeners.open(session, target, wanted_port, lambda: StreamForward(self, target))

    async def connect(self, target: Target) -> Far:
        """A connection to the target, which also tells whether the site is away. Raises LostError."""
        try:
            far = await self._site.connect(target)
        except LostError:
            self._away = True
            raise
        if self._away:
            self._away = False
            self.came_back.set()
        return far

    async def forget(self, session: SessionId) -> None:
        """Closes the way to a session's server. Safe to repeat."""
        await self._listeners.forget(session)

    async def close(self) -> None:
        """Closes every way."""
        await self._listeners.close()
        await self._site.close()

    async def lead_to_hub(self, serve: bool) -> None:
        """Sites forward to servers only: these reach the hub themselves."""


async def carry(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    """Carries bytes from one stream to another until the first ends or either is lost."""
    with contextlib.suppress(OSError):
        while data := await source.read(CHUNK_BYTES):
            target.write(data)
            await target.drain()
