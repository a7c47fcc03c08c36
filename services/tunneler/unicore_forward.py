"""Leads to servers through their UNICORE site, which forwards to ports of jobs. Chooses no target.

Each connection that comes in becomes one to UNICORE/X, which switches protocols on `GET jobs/<id>/forward-port` with
`Upgrade: UNICORE-Socket-Forwarding` and carries bytes from then on.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from pathlib import Path
from urllib.parse import urlencode, urlsplit

import structlog

from schemas.base import SessionId
from services._runtime.configuration import ConfigurationError
from services._runtime.delegation import Credentials, Delegation
from services._runtime.systems import UnicoreSite
from services._runtime.tasks import end
from services.tunneler.listening import BACKLOG, PortRange, PromisedPorts
from services.tunneler.ports import Address, LostError, Target

_log = structlog.get_logger("farlab.tunneler.unicore")

PROTOCOL = "UNICORE-Socket-Forwarding"
CHUNK_BYTES = 64 * 1024

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class JobForward:
    """A listener on our side that leads to one port of one job."""

    via = "unicore"

    def __init__(self, ways: UnicoreWays, target: Target) -> None:
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
            from_site, to_site = await self._ways.connect(self.target)
        except LostError as error:
            _log.info("connection closed", port=self.address.port, reason=str(error))
            writer.close()
            return
        directions = [asyncio.create_task(_carry(reader, to_site)), asyncio.create_task(_carry(from_site, writer))]
        try:
            await asyncio.wait(directions, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await end(directions)
            writer.close()
            to_site.close()


async def _carry(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    """TLS has no half-closed connections: whoever comes to its end here ends the connection."""
    with contextlib.suppress(OSError):
        while data := await source.read(CHUNK_BYTES):
            target.write(data)
            await target.drain()


class UnicoreWays:
    """All ways to the servers of one system, over its UNICORE/X."""

    def __init__(
        self,
        site: UnicoreSite,
        credentials: Credentials,
        *,
        bind_host: str,
        ports: tuple[int, int],
        promised: PromisedPorts | None = None,
    ) -> None:
        """Raises ConfigurationError when the site's CA cannot be read."""
        self._url = urlsplit(site.url)
        self._seconds = site.timeout_seconds
        self._credentials = credentials
        self._tls = _tls(site) if self._url.scheme == "https" else None
        self._range = PortRange(bind_host, ports, promised)
        self._forwards: dict[SessionId, JobForward] = {}
        self._away = False
        self.came_back = asyncio.Event()

    async def start(self) -> None:
        """Nothing to keep up: every connection is one of its own."""

    async def open(self, session: SessionId, target: Target, wanted_port: int) -> JobForward:
        """See `ports.Ways`."""
        earlier = self._forwards.get(session)
        if earlier is not None and earlier.target == target:
            return earlier
        await self.forget(session)
        forward = JobForward(self, target)
        await self._range.listen(forward.listen, wanted_port, session)
        self._forwards[session] = forward
        return forward

    async def connect(self, target: Target) -> Streams:
        """A connection to the target. Raises LostError."""
        try:
            async with asyncio.timeout(self._seconds):
                streams = await self._switched(target)
        except (OSError, TimeoutError, EOFError, asyncio.LimitOverrunError) as error:
            self._away = True
            raise LostError(f"UNICORE/X does not forward: {str(error) or type(error).__name__}") from None
        if self._away:
            self._away = False
            self.came_back.set()
        return streams

    async def _switched(self, target: Target) -> Streams:
        host, port = self._url.hostname or "", self._url.port or (443 if self._tls else 80)
        reader, writer = await asyncio.open_connection(host, port, ssl=self._tls, limit=CHUNK_BYTES)
        try:
            query = urlencode({"host": target.host, "port": target.port})
            lines = [
                f"GET {self._url.path}/jobs/{target.job}/forward-port?{query} HTTP/1.1",
                f"Host: {self._url.netloc}",
                f"Authorization: {self._credentials.authorization(target.identity, fresh=False)}",
                f"X-UNICORE-User-Preferences: uid:{target.account},group:{target.project}",
                "Connection: Upgrade",
                f"Upgrade: {PROTOCOL}",
            ]
            writer.write("\r\n".join([*lines, "", ""]).encode())
            await writer.drain()
            head = await reader.readuntil(b"\r\n\r\n")
        except BaseException:
            writer.close()
            raise
        if head.split(b" ", 2)[1:2] != [b"101"]:
            writer.close()
            self._away = True
            raise LostError(f"UNICORE/X does not forward: {head.splitlines()[0][:100].decode(errors='replace')}")
        return reader, writer

    async def forget(self, session: SessionId) -> None:
        """Closes the way to a session's server. Safe to repeat."""
        if (forward := self._forwards.pop(session, None)) is not None:
            await forward.close()

    async def close(self) -> None:
        """Closes every way."""
        for session in list(self._forwards):
            await self.forget(session)

    async def lead_to_hub(self, serve: bool) -> None:
        """UNICORE forwards to jobs only: they reach the hub themselves."""


def unicore_ways(
    site: UnicoreSite, *, bind_host: str, ports: tuple[int, int], promised: PromisedPorts | None = None
) -> UnicoreWays:
    """The ways over a site, by delegation. Raises ConfigurationError and KeyFileError."""
    delegation = Delegation(site.issuer_dn, Path(site.delegation_key_file))
    return UnicoreWays(site, delegation, bind_host=bind_host, ports=ports, promised=promised)


def _tls(site: UnicoreSite) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=site.ca_file or None)
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(f"{site.ca_file}: not a file of CA certificates: {error}") from None
