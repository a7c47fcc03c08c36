"""Reaches servers through their UNICORE site, which forwards to ports of jobs. Chooses no target.

Each connection is one to UNICORE/X, which switches protocols on `GET jobs/<id>/forward-port` with
`Upgrade: UNICORE-Socket-Forwarding` and carries bytes from then on.
"""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path
from urllib.parse import urlencode, urlsplit

from services._runtime.configuration import ConfigurationError
from services._runtime.delegation import Credentials, Delegation
from services._runtime.systems import UnicoreSite
from services.tunneler.ports import LostError, Target
from services.tunneler.stream_forward import CHUNK_BYTES, carry

PROTOCOL = "UNICORE-Socket-Forwarding"

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class UnicoreSide:
    """The jobs of one system, over its UNICORE/X, by delegation."""

    via = "unicore"

    def __init__(self, site: UnicoreSite) -> None:
        """Raises ConfigurationError when the site's CA cannot be read, and KeyFileError."""
        self._url = urlsplit(site.url)
        self._seconds = site.timeout_seconds
        self._credentials: Credentials = Delegation(site.issuer_dn, Path(site.delegation_key_file))
        self._tls = _tls(site) if self._url.scheme == "https" else None

    async def connect(self, target: Target) -> JobConnection:
        """See `stream_forward.FarSide`."""
        try:
            async with asyncio.timeout(self._seconds):
                reader, writer = await self._switched(target)
        except (OSError, TimeoutError, EOFError, asyncio.LimitOverrunError) as error:
            raise LostError(f"UNICORE/X does not forward: {str(error) or type(error).__name__}") from None
        return JobConnection(reader, writer)

    async def close(self) -> None:
        """Connections share nothing."""

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
            if head.split(b" ", 2)[1:2] != [b"101"]:
                first = head.splitlines()[0][:100].decode(errors="replace")
                raise LostError(f"UNICORE/X does not forward: {first}")
        except BaseException:
            writer.close()
            raise
        return reader, writer


class JobConnection:
    """See `stream_forward.Far`: bytes as they are."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def carry_there(self, reader: asyncio.StreamReader) -> None:
        """Carries what comes in."""
        await carry(reader, self._writer)

    async def carry_back(self, writer: asyncio.StreamWriter) -> None:
        """Carries what the job says."""
        await carry(self._reader, writer)

    async def close(self) -> None:
        """Closes the connection."""
        self._writer.close()


def _tls(site: UnicoreSite) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=site.ca_file or None)
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(f"{site.ca_file}: not a file of CA certificates: {error}") from None
