"""Requests to a site's slurmrestd as one of its users: one pool of connections, one version of the API. Knows no job.

Every way it can fail has one reaction:

- no answer, a time-out, not its JSON, 5xx without Slurm's words: TransientError, counted by the breaker;
- Slurm's words that its controller is away, or in standby: the same;
- a token that is not believed: TransientError, counted for the account that asks for the queue alone;
- no such job: NoSuchJobError; other words of the controller about a job: PermanentError, with them.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Mapping
from pathlib import Path
from time import monotonic
from typing import Any, TypeVar

import httpx
import msgspec

from services._runtime.configuration import ConfigurationError
from services._runtime.errors import PermanentError, TransientError
from services._runtime.systems import SlurmRest, SlurmSite
from services.hpc_launcher.limits import Breaker, Limiter
from services.hpc_launcher.slurm_documents import (
    AWAY,
    DOUBTFUL,
    KNOWN,
    NO_SUCH_JOB,
    REFUSED,
    UNTRUSTED,
    Offer,
    Said,
    versions,
)
from services.hpc_launcher.slurm_shell import NoSuchJobError, checked_account, refused_by_slurm
from services.hpc_launcher.slurm_tokens import SlurmTokens

MOST_ANSWER_BYTES = 256 * 1024 * 1024
"""slurmrestd tells the jobs of everybody at the site, whole, some kilobytes each."""

_UNBELIEVED = "does not believe this service's tokens (jwt_key_file is not its key, or a clock is minutes off)"

Answer = TypeVar("Answer")
Worded = Callable[[str], Mapping[str, Any]]
"""A document in the words of a version of the API."""


class NeverArrivedError(TransientError):
    """The request surely reached nobody."""


class Slurmrestd:
    """slurmrestd at one site. Raises TransientError, PermanentError and NoSuchJobError."""

    def __init__(self, title: str, site: SlurmSite, rest: SlurmRest) -> None:
        """Raises ConfigurationError and KeyFileError."""
        self._title = title
        self._query_account = site.query_account
        self._timeout_seconds = site.timeout_seconds
        self._tokens = SlurmTokens(Path(rest.jwt_key_file))
        self._limiter = Limiter(per_second=site.requests_per_second, at_once=site.concurrent_requests, clock=monotonic)
        self._breaker = Breaker(monotonic)
        self._version = ""
        self._http = httpx.AsyncClient(
            base_url=rest.url.rstrip("/"),
            verify=_trust(rest.ca_file),
            timeout=httpx.Timeout(site.timeout_seconds, connect=site.connect_seconds),
            limits=httpx.Limits(max_connections=site.concurrent_requests),
            trust_env=False,
        )

    async def ask(
        self, account: str, method: str, path: str, document: Mapping[str, Any] | Worded | None = None
    ) -> Said:
        """The answer to a request made as this account; `path` is what follows the version of the API."""
        checked_account(account, self._title)
        if closed := self._breaker.closed_seconds():
            raise TransientError(f"{self._title}: {self._breaker.reason}", closed)
        self._breaker.begin()
        try:
            async with self._limiter.turn(), asyncio.timeout(self._timeout_seconds):
                version = self._version or await self._negotiated()
                if callable(document):
                    document = document(version)
                status, body = await self._send(account, method, f"/slurm/{version}{path}", document)
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise self._failed(f"its slurmrestd {_unreached(error)}", NeverArrivedError) from None
        except (TimeoutError, httpx.TimeoutException):
            raise self._failed(f"its slurmrestd did not answer in {self._timeout_seconds:g} s") from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise self._failed(f"its slurmrestd is away ({type(error).__name__})") from None
        except BaseException:
            self._breaker.abandoned()
            raise
        return self._judged(account, status, self._decoded(account, status, body, Said))

    def troubles(self) -> list[str]:
        """Why slurmrestd cannot be used right now."""
        return [f"{self._title}: {self._breaker.reason}"] if self._breaker.is_open else []

    async def close(self) -> None:
        """Closes the pool."""
        await self._http.aclose()

    async def _negotiated(self) -> str:
        """The newest version of the API that both sides know, asked for once."""
        status, body = await self._send(self._query_account, "GET", "/openapi/v3")
        offered = versions(self._decoded(self._query_account, status, body, Offer).paths) if status == 200 else []
        if status == 200 and not set(offered) & set(KNOWN):
            self._breaker.succeeded()
            raise PermanentError(
                "slurmrestd-version",
                f"slurmrestd at {self._title} offers {', '.join(offered) or 'no version of its API'}; this release of "
                f"Farlab knows {', '.join(KNOWN)}.",
                "An operator should leave out [site.rest], and let the forced command do its work.",
            )
        if status != 200:
            self._judged(self._query_account, status, self._decoded(self._query_account, status, body, Said))
        self._version = [version for version in KNOWN if version in offered][-1]
        return self._version

    async def _send(self, account: str, method: str, path: str, document: object = None) -> tuple[int, bytearray]:
        headers = {
            "Accept": "application/json",
            "X-SLURM-USER-NAME": account,
            "X-SLURM-USER-TOKEN": self._tokens.token(account),
        }
        content = None if document is None else msgspec.json.encode(document)
        if content is not None:
            headers["Content-Type"] = "application/json"
        async with self._http.stream(method, path, content=content, headers=headers) as response:
            body = bytearray()
            async for piece in response.aiter_bytes():
                body += piece
                if len(body) > MOST_ANSWER_BYTES:
                    raise httpx.DecodingError("the answer is too large", request=response.request)
            return response.status_code, body

    def _decoded(self, account: str, status: int, body: bytearray, kind: type[Answer]) -> Answer:
        try:
            return msgspec.json.decode(body, type=kind, strict=False)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            if status == 401:
                raise self._unbelieved(account) from None
            raise self._failed(f"its slurmrestd answered HTTP {status} and not with its JSON") from None

    def _judged(self, account: str, status: int, said: Said) -> Said:
        problem = said.problem
        if status == 401 or (problem is not None and problem.number in UNTRUSTED):
            raise self._unbelieved(account)
        if problem is None:
            if not 200 <= status < 300:
                raise self._failed(f"its slurmrestd answered HTTP {status}")
            self._breaker.succeeded()
            return said
        if problem.number == NO_SUCH_JOB:
            self._breaker.succeeded()
            raise NoSuchJobError(problem.words)
        if problem.number in REFUSED and problem.number not in AWAY:
            self._breaker.succeeded()
            raise refused_by_slurm(self._title, problem.words)
        if problem.number in DOUBTFUL:
            raise self._failed(f"its Slurm controller does not answer, or {_UNBELIEVED}")
        raise self._failed(f"its Slurm controller does not answer: {problem.words}")

    def _unbelieved(self, account: str) -> TransientError:
        if account == self._query_account:
            return self._failed(f"its Slurm controller {_UNBELIEVED}")
        self._breaker.succeeded()  # it lives: what it refuses to one account says nothing of the others
        return TransientError(f"{self._title} does not let this service act as {account}")

    def _failed(self, reason: str, kind: type[TransientError] = TransientError) -> TransientError:
        self._breaker.failed(reason)
        self._version = ""  # one that knows this version no more may have taken its place
        return kind(f"{self._title}: {reason}")


def _unreached(error: httpx.TransportError) -> str:
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        return "has a certificate that is not trusted here; site.rest.ca_file names the CA"
    return f"cannot be reached ({type(error).__name__})"


def _trust(ca_file: str) -> ssl.SSLContext | bool:
    if not ca_file:
        return True
    try:
        return ssl.create_default_context(cafile=ca_file)
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(f"site.rest.ca_file = {ca_file}: not a file of CA certificates: {error}") from None
