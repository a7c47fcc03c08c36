"""Asks, between sign-ins, what users may use: the same claims as at sign-in, over HTTP. Decides nothing.

One replica asks at a time. What did not change is not sent again (ETag, RFC 9110, 8.8.3); who is not known there keeps
his rights, because an address that is wrong looks the same.
"""

from __future__ import annotations

import asyncio
import random
import ssl
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

import httpx
import msgspec
import structlog

from schemas.base import UserName
from services._runtime.configuration import ConfigurationError
from services._runtime.errors import TransientError
from services._runtime.vault import read_secret_file
from services.accounts.settings import USER, PullSettings

_log = structlog.get_logger("farlab.accounts.pull")

MOST_BYTES = 1024 * 1024
"""A longer answer is not one user's rights."""
LONGEST_PAUSE_SECONDS = 3600.0


class Learns(Protocol):
    """Who learns what was answered. See `access.AccessBook`."""

    def known_by_claims(self) -> Iterable[UserName]:
        """Everybody who ever signed in."""

    async def learn(self, user: UserName, claims: Mapping[str, object], reason: str) -> None:
        """Takes what is said of a user. Raises TransientError."""


class Turn(Protocol):
    """Whether it is this replica that asks. See `leases.Lease`."""

    @property
    def held(self) -> bool:
        """Whether it is, now."""


class AwayError(TransientError):
    """The source does not answer as it should; ask later."""


class PullSource:
    """Asks for every user in turn, for ever."""

    def __init__(
        self,
        settings: PullSettings,
        folder: Path,
        *,
        learns: Learns,
        turn: Turn,
        transport: httpx.AsyncBaseTransport | None = None,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        """Relative files count from `folder`. Raises ConfigurationError and KeyFileError."""
        self._settings = settings
        self._learns = learns
        self._turn = turn
        self._jitter = jitter
        headers = {"Accept": "application/json"}
        if settings.token_file:
            token = read_secret_file(folder / settings.token_file).decode().strip()
            headers["Authorization"] = f"Bearer {token}"
        self._client = httpx.AsyncClient(
            headers=headers,
            timeout=settings.timeout_seconds,
            verify=_tls(settings, folder),
            transport=transport,
            trust_env=False,
        )
        self._etags: dict[UserName, str] = {}
        self._due: dict[UserName, float] = {}
        self._failures = 0

    async def run(self) -> None:
        """Ends by cancel."""
        while True:
            pause = self._settings.every_seconds / 10
            try:
                if self._turn.held:
                    await self.round()
                self._failures = 0
            except AwayError as error:
                self._failures += 1
                backoff = self._settings.every_seconds / 10 * 2.0 ** min(self._failures, 12)
                pause = min(max(backoff, error.delay_seconds or 0.0), LONGEST_PAUSE_SECONDS)
                _log.warning("rights are not pulled", reason=error.reason, again_seconds=round(pause, 1))
            except Exception:
                _log.exception("rights are not pulled")
            await asyncio.sleep(pause * (0.75 + 0.25 * self._jitter()))

    async def round(self) -> None:
        """Asks for everybody whose time has come. Raises AwayError at the first answer that is none."""
        now = asyncio.get_running_loop().time()
        due = [user for user in self._learns.known_by_claims() if self._due.get(user, 0.0) <= now]
        for at in range(0, len(due), self._settings.at_once):
            async with asyncio.TaskGroup() as group:
                asking = [group.create_task(self._quietly(user)) for user in due[at : at + self._settings.at_once]]
            for each in asking:
                if (error := each.result()) is not None:
                    raise error

    async def close(self) -> None:
        """Frees connections."""
        await self._client.aclose()

    async def _quietly(self, user: UserName) -> TransientError | None:
        try:
            await self.ask(user)
        except TransientError as error:
            return error
        return None

    async def ask(self, user: UserName) -> None:
        """Asks for one user, and has what changed learned. Raises AwayError, or TransientError of the log."""
        known = {"If-None-Match": self._etags[user]} if user in self._etags else {}
        url = self._settings.url.replace(USER, quote(user, safe=""))
        try:
            async with self._client.stream("GET", url, headers=known) as answer:
                body = await _bounded(answer)
        except (httpx.HTTPError, ssl.SSLError) as error:
            raise AwayError(f"{_place(url)}: {type(error).__name__}: {error}") from error
        match answer.status_code:
            case 200:
                await self._learns.learn(user, _claims(body, url), "pulled")
                self._etags.pop(user, None)
                if etag := answer.headers.get("ETag"):
                    self._etags[user] = etag
            case 304:
                pass
            case 404:
                _log.warning("the source of rights does not know a user, who keeps what is known", user=user)
            case status:
                raise AwayError(f"{_place(url)}: answered {status}", _retry_after(answer))
        seconds = self._settings.every_seconds * (0.9 + 0.2 * self._jitter())
        self._due[user] = asyncio.get_running_loop().time() + seconds


def _tls(settings: PullSettings, folder: Path) -> ssl.SSLContext | bool:
    if not settings.ca_file:
        return True
    try:
        return ssl.create_default_context(cafile=folder / settings.ca_file)
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(f"{folder / settings.ca_file}: not a file of CA certificates: {error}") from None


async def _bounded(answer: httpx.Response) -> bytes:
    body = b""
    async for part in answer.aiter_bytes():
        body += part
        if len(body) > MOST_BYTES:
            raise AwayError(f"{_place(str(answer.url))}: answered more than {MOST_BYTES} bytes")
    return body


def _claims(body: bytes, url: str) -> dict[str, Any]:
    try:
        return msgspec.json.decode(body, type=dict[str, Any])
    except msgspec.MsgspecError as error:
        raise AwayError(f"{_place(url)}: not a JSON object of claims: {error}") from None


def _place(url: str) -> str:
    """The address without what names a user."""
    return str(httpx.URL(url).copy_with(path="/", query=None))


def _retry_after(answer: httpx.Response) -> float | None:
    said = answer.headers.get("Retry-After", "")
    return float(said) if said.isascii() and said.isdigit() and len(said) < 6 else None
