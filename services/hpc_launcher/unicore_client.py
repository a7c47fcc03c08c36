"""A thin client of UNICORE's REST API: one pool of connections, typed errors, one time budget. Knows no job.

Every way a site can fail has one reaction:

- no answer, a time-out, 502, 504: TransientError, counted by the breaker;
- 429 and 503: TransientError after the site's own delay, or a long one with its message when submission is disabled;
- other 5xx, a redirect, invalid JSON: TransientError;
- 432 (security session lost): once more without the session;
- 401 and 403: once more with a fresh token, then PermanentError;
- 404: NotFoundError; other 4xx: PermanentError with the site's message.
"""

from __future__ import annotations

import asyncio
import re
import ssl
import time
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import httpx
import msgspec

from services._runtime.delegation import Credentials
from services._runtime.errors import PermanentError, TransientError
from services.hpc_launcher.limits import Breaker, Limiter
from services.hpc_launcher.ports import Owner

SESSION_HEADER = "X-UNICORE-SecuritySession"
PREFERENCES_HEADER = "X-UNICORE-User-Preferences"
SESSION_LOST = 432
STARTING = "no accessible targetsystem factories"
"""What UNICORE/X answers a create with while it starts, and for ever where its policies let nobody make jobs."""
SESSIONS_KEPT = 10_000
MOST_BODY_BYTES = 4 * 1024 * 1024
BUSY_SECONDS = 10.0
SUBMISSION_DISABLED_SECONDS = 60.0
LONGEST_RETRY_AFTER_SECONDS = 300.0
_PREFERENCE = re.compile(r"[A-Za-z0-9._@-]{1,64}")


class NotFoundError(Exception):
    """There is no such resource. `certain` when UNICORE itself says so, and not perhaps a gateway in front of it."""

    def __init__(self, words: str, *, certain: bool) -> None:
        self.certain = certain
        super().__init__(words)


class SiteFaultError(TransientError):
    """The site answered with a fault of its own (5xx), which UNICORE also does for some jobs it will never take."""


class Answer(msgspec.Struct, frozen=True):
    """What the site answered, whole."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def message(self) -> str:
        """The site's own words about an error, bounded, on one line; empty when it has none."""
        try:
            said = msgspec.json.decode(self.body)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return ""
        text = said.get("errorMessage", "") if isinstance(said, dict) else ""
        return " ".join(str(text).split())[:500]


class UnicoreClient:
    """Requests to one site, for any of its users. `title` is how messages name the site."""

    def __init__(
        self,
        *,
        title: str,
        url: str,
        credentials: Credentials,
        verify: ssl.SSLContext | bool,
        requests_per_second: float,
        concurrent_requests: int,
        timeout_seconds: float,
    ) -> None:
        self.title = title
        self._credentials = credentials
        self._timeout_seconds = timeout_seconds
        self._limiter = Limiter(per_second=requests_per_second, at_once=concurrent_requests, clock=time.monotonic)
        self._breaker = Breaker(time.monotonic)
        self._sessions: OrderedDict[Owner, str] = OrderedDict()
        self._url = url.rstrip("/")
        self._http = httpx.AsyncClient(
            verify=verify,
            timeout=httpx.Timeout(timeout_seconds),
            limits=httpx.Limits(max_connections=concurrent_requests, max_keepalive_connections=concurrent_requests),
            trust_env=False,
        )

    def troubles(self) -> list[str]:
        """Why the site counts as dead, or nothing."""
        return [f"{self.title} does not answer: {self._breaker.reason}"] if self._breaker.is_open else []

    async def close(self) -> None:
        """Closes the pool."""
        await self._http.aclose()

    async def call(
        self,
        operation: str,
        method: str,
        path: str,
        owner: Owner | None,
        *,
        params: Mapping[str, str] | None = None,
        document: object = None,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        token: str = "",
    ) -> Answer:
        """Sends a request for a user (None: for nobody) within the time budget and returns a 2xx answer.

        `operation` says in words what is done, for messages; with a `token`, it and nothing else says who asks.
        Raises NotFoundError, TransientError, PermanentError.
        """
        sent = {"Accept": "application/json", **(headers or {})}
        if document is not None:
            content = msgspec.json.encode(document)
            sent["Content-Type"] = "application/json"
        request = self._http.build_request(
            method, self._url + path, params=params, content=content, headers={**sent, **_preferences(owner)}
        )
        self._refuse_while_open()
        async with self._limiter.turn():
            self._refuse_while_open()
            if token:
                request.headers["Authorization"] = f"Bearer {token}"
                answer = await self._exchange(operation, request, None)
            else:
                answer = await self._exchange(operation, request, owner)
        return self._judged(operation, answer)

    async def document(
        self, operation: str, path: str, owner: Owner, *, token: str = "", **params: str
    ) -> dict[str, Any]:
        """A JSON object of the site. Raises as `call` does; TransientError when it is no JSON object."""
        answer = await self.call(operation, "GET", path, owner, params=params, token=token)
        try:
            return msgspec.json.decode(answer.body, type=dict[str, Any])
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise TransientError(f"{self.title}: {operation} was answered with something that is not JSON") from None

    def _refuse_while_open(self) -> None:
        seconds = self._breaker.closed_seconds()
        if seconds > 0:
            raise TransientError(f"{self.title} does not answer: {self._breaker.reason}", delay_seconds=seconds)

    async def _exchange(self, operation: str, request: httpx.Request, owner: Owner | None) -> Answer:
        self._breaker.begin()
        try:
            async with asyncio.timeout(self._timeout_seconds):
                answer = await self._authenticated(request, owner)
        except (TimeoutError, httpx.TimeoutException):
            raise self._unanswered(operation, f"no answer within {self._timeout_seconds:g} s") from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise self._unanswered(operation, str(error) or type(error).__name__) from None
        except BaseException:
            self._breaker.abandoned()
            raise
        if answer.status in (502, 504):
            raise self._unanswered(operation, f"HTTP {answer.status} from a gateway")
        self._breaker.succeeded()
        return answer

    def _unanswered(self, operation: str, why: str) -> TransientError:
        self._breaker.failed(why)
        return TransientError(f"{self.title}: {operation}: {why}")

    async def _authenticated(self, request: httpx.Request, owner: Owner | None) -> Answer:
        """The answer with the user's session; once more with a fresh delegation when the site does not accept it."""
        if owner is None:
            return await self._send(request)
        answer = await self._try(request, owner, fresh=False)
        if answer.status in (401, 403):
            self._forget_session(request, owner)
            answer = await self._try(request, owner, fresh=True)
        if session := answer.headers.get(SESSION_HEADER):
            self._sessions[owner] = session
            self._sessions.move_to_end(owner)
            if len(self._sessions) > SESSIONS_KEPT:
                self._sessions.popitem(last=False)
        return answer

    async def _try(self, request: httpx.Request, owner: Owner, *, fresh: bool) -> Answer:
        request.headers["Authorization"] = self._credentials.authorization(owner.identity, fresh=fresh)
        if owner in self._sessions:
            request.headers[SESSION_HEADER] = self._sessions[owner]
        answer = await self._send(request)
        if answer.status == SESSION_LOST:
            self._forget_session(request, owner)
            answer = await self._send(request)
        return answer

    def _forget_session(self, request: httpx.Request, owner: Owner) -> None:
        self._sessions.pop(owner, None)
        request.headers.pop(SESSION_HEADER, None)

    async def _send(self, request: httpx.Request) -> Answer:
        response = await self._http.send(request, stream=True)
        try:
            body = bytearray()
            async for piece in response.aiter_bytes():
                body += piece
                if len(body) > MOST_BODY_BYTES:
                    raise httpx.DecodingError("the answer is too large", request=request)
        finally:
            await response.aclose()
        return Answer(response.status_code, response.headers, bytes(body))

    def _judged(self, operation: str, answer: Answer) -> Answer:
        """The answer when it is a success; else the error its status stands for."""
        status, said = answer.status, answer.message()
        words = f"{self.title}: {operation}: {said or f'HTTP {status}'}"
        if 200 <= status < 300:
            return answer
        if status == 404:
            # UNICORE/X 11 says nothing about what is not there, but names the security session; a gateway knows none.
            raise NotFoundError(words, certain=bool(said) or SESSION_HEADER in answer.headers)
        if status in (401, 403) and STARTING in said:
            raise SiteFaultError(words[:1000])
        if status in (401, 403):
            raise PermanentError(
                "refused-by-site",
                words[:1000],
                f"Check with the support of {self.title} that your account and project may be used there.",
            )
        if status == 429:
            raise TransientError(f"{self.title} asks us to slow down", _retry_after(answer) or BUSY_SECONDS)
        if status == 503:
            delay = _retry_after(answer) or (SUBMISSION_DISABLED_SECONDS if said else BUSY_SECONDS)
            raise TransientError(f"{self.title} takes no requests now: {said}" if said else words, delay)
        if status >= 500:
            raise SiteFaultError(words[:1000])
        if status < 400:
            raise TransientError(words[:1000])
        raise PermanentError(
            "rejected-by-site", words[:1000], "Change what the site objects to, or ask its support for help."
        )


def _preferences(owner: Owner | None) -> dict[str, str]:
    """As whom and for which project the site shall act; the header's own separators are refused in names."""
    if owner is None:
        return {}
    for name in (owner.account, owner.project):
        if not _PREFERENCE.fullmatch(name):
            raise PermanentError(
                "invalid-account",
                f"{name[:64]!r} is not a name that UNICORE accepts for an account or a project.",
                "Ask the operator of this service to correct the account.",
            )
    return {PREFERENCES_HEADER: f"uid:{owner.account},group:{owner.project}"}


def _retry_after(answer: Answer) -> float | None:
    """Seconds from a `Retry-After` header (RFC 9110, the form in seconds), within reason."""
    try:
        seconds = float(answer.headers.get("Retry-After", ""))
    except ValueError:
        return None
    return min(max(seconds, 1.0), LONGEST_RETRY_AFTER_SECONDS) if seconds == seconds else None
