"""An authenticated connection to one Kubernetes API server, as a kubeconfig or the own pod says. Knows no object.

The official client reads the configuration and renews credentials; answers stay bytes, because whole objects cost too
much to decode where a few fields are needed.
"""

from __future__ import annotations

import asyncio
import contextlib
import stat
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
from kubernetes.aio import config
from kubernetes.aio.client import Configuration
from kubernetes.aio.client.rest import RESTClientObject
from kubernetes.aio.config.config_exception import ConfigException

from services._runtime.clouds import KubernetesSite
from services._runtime.configuration import ConfigurationError
from services._runtime.errors import PermanentError, TransientError

LINE_BYTES = 2 * 1024 * 1024
"""A watch tells a whole object in a line; etcd takes none above 1.5 MB."""
MOST_BODY_BYTES = 64 * 1024 * 1024
BUSY_SECONDS = 2.0
_AWAY = (aiohttp.ClientError, OSError, TimeoutError)


class Status(msgspec.Struct, frozen=True):
    """Why the API server refuses, in its own words (a `Status` object)."""

    message: str = ""
    reason: str = ""


class RefusedError(PermanentError):
    """The API server refuses for good: `status` is HTTP's, `said` its words."""

    def __init__(self, title: str, operation: str, status: int, said: Status) -> None:
        self.status = status
        self.said = said.message or f"HTTP {status}"
        super().__init__(
            "refused-by-cloud",
            f"{title}: {operation}: {self.said}"[:1024],
            "Ask the operator of this service to look at it.",
        )


class NotThereError(RefusedError):
    """What was asked for is not there (404); `said` tells what."""


class TakenError(RefusedError):
    """The name is taken, or what was expected has changed (409)."""


class TooOldError(RefusedError):
    """The version asked for is no longer known (410): list again."""


_KINDS: Mapping[int, type[RefusedError]] = {404: NotThereError, 409: TakenError, 410: TooOldError}


class ApiServer:
    """Requests to one API server. `title` is how messages name its cloud. Opened by its first request."""

    def __init__(
        self, title: str, *, kubeconfig: str, context: str = "", concurrent_requests: int, timeout_seconds: float
    ) -> None:
        self.title = title
        self._kubeconfig = kubeconfig
        self._context = context
        self._timeout_seconds = timeout_seconds
        self._room = asyncio.Semaphore(concurrent_requests)
        self._opening = asyncio.Lock()
        self._settings: Configuration | None = None
        self._http: aiohttp.ClientSession | None = None

    async def call(
        self,
        operation: str,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        document: object = None,
        content_type: str = "application/json",
    ) -> bytes:
        """The body of a 2xx answer. `operation` says in words what is done.

        Raises TransientError when the server is away or overloaded, a RefusedError of the fitting kind else.
        """
        body = None if document is None else msgspec.json.encode(document)
        async with self._room:
            try:
                async with asyncio.timeout(self._timeout_seconds):
                    status, content = await self._exchange(method, path, params, body, content_type)
                    if status == 401:
                        await self.close()  # credentials are read anew: a rotated token is no refusal
                        status, content = await self._exchange(method, path, params, body, content_type)
            except TimeoutError:
                raise TransientError(f"{self.title} did not answer within {self._timeout_seconds:g} s") from None
            except _AWAY as error:
                raise TransientError(f"{self.title} cannot be reached: {_told(error)}") from None
        self._judge(operation, status, content)
        return content

    @contextlib.asynccontextmanager
    async def lines(
        self, operation: str, path: str, params: Mapping[str, str], silent_seconds: float
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """The lines of an endless answer. Raises as `call`; TransientError too when nothing comes for so long."""
        timeout = aiohttp.ClientTimeout(total=None, connect=self._timeout_seconds, sock_read=silent_seconds)
        try:
            http, url, headers = await self._ready()
            async with http.get(url + path, params=params, headers=headers, timeout=timeout) as answer:
                if answer.status != 200:
                    self._judge(operation, answer.status, await answer.content.read(LINE_BYTES))
                yield aiter(answer.content)
        except TimeoutError:
            raise TransientError(f"{self.title}: {operation}: nothing was heard for {silent_seconds:g} s") from None
        except (*_AWAY, ValueError) as error:
            raise TransientError(f"{self.title}: {operation}: {_told(error)}") from None

    async def websocket(self, path: str, params: Mapping[str, str], protocol: str) -> aiohttp.ClientWebSocketResponse:
        """An open websocket that speaks the protocol. Raises TransientError."""
        try:
            http, url, headers = await self._ready()
            async with asyncio.timeout(self._timeout_seconds):
                return await http.ws_connect(
                    url + path, params=params, headers=headers, protocols=(protocol,), max_msg_size=0, heartbeat=30.0
                )
        except _AWAY as error:
            raise TransientError(f"{self.title} does not let through: {_told(error)}") from None

    async def close(self) -> None:
        """Frees connections; a later request opens them anew."""
        http, self._http, self._settings = self._http, None, None
        if http is not None:
            await http.close()

    async def _exchange(
        self, method: str, path: str, params: Mapping[str, str] | None, body: bytes | None, content_type: str
    ) -> tuple[int, bytes]:
        http, url, headers = await self._ready()
        if body is not None:
            headers["Content-Type"] = content_type
        async with http.request(method, url + path, params=params, data=body, headers=headers) as answer:
            content = bytearray()
            async for chunk in answer.content.iter_any():
                content += chunk
                if len(content) > MOST_BODY_BYTES:
                    raise aiohttp.ClientPayloadError("the answer is too large")
            return answer.status, bytes(content)

    async def _ready(self) -> tuple[aiohttp.ClientSession, str, dict[str, str]]:
        async with self._opening:
            if self._http is None or self._settings is None:
                self._settings = await self._configuration()
                tls = RESTClientObject(self._settings).ssl_context
                self._http = aiohttp.ClientSession(
                    connector=aiohttp.TCPConnector(ssl=tls, limit=0),
                    timeout=aiohttp.ClientTimeout(total=None),
                    read_bufsize=LINE_BYTES,
                    proxy=self._settings.proxy or None,
                    headers={"Accept": "application/json"},
                )
            settings, http = self._settings, self._http
        found: Any = await settings.auth_settings()
        headers = {str(each["key"]): str(each["value"]) for each in found.values() if each["value"]}
        return http, settings.host.rstrip("/"), headers

    async def _configuration(self) -> Configuration:
        settings = Configuration()
        try:
            if self._kubeconfig:
                await config.load_kube_config(  # type: ignore[no-untyped-call]
                    config_file=self._kubeconfig,
                    context=self._context or None,
                    client_configuration=settings,
                    persist_config=False,
                )
            else:
                config.load_incluster_config(client_configuration=settings)  # type: ignore[no-untyped-call]
        except (ConfigException, OSError, ValueError, KeyError, TypeError) as error:
            where = self._kubeconfig or "the pod's own identity"
            raise TransientError(f"{self.title}: {where} cannot be used: {_told(error)}") from None
        return settings

    def _judge(self, operation: str, status: int, content: bytes) -> None:
        """Returns for a 2xx answer."""
        if 200 <= status < 300:
            return
        try:
            said = msgspec.json.decode(content, type=Status)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            said = Status()
        if status == 429 or status >= 500:
            raise TransientError(
                f"{self.title}: {operation}: {said.message or f'HTTP {status}'}"[:1024], delay_seconds=BUSY_SECONDS
            )
        raise _KINDS.get(status, RefusedError)(self.title, operation, status, said)


def api_of(title: str, site: KubernetesSite) -> ApiServer:
    """The API server of a cloud, as its file says. It is reached when it is first asked."""
    return ApiServer(
        title,
        kubeconfig=site.kubeconfig,
        context=site.context,
        concurrent_requests=site.concurrent_requests,
        timeout_seconds=site.timeout_seconds,
    )


def check_kubeconfig(kubeconfig: str) -> None:
    """Raises ConfigurationError when a kubeconfig that is named cannot be read, or everybody may read it.

    Its group may: that is how a pod's own secrets are mounted.
    """
    if not kubeconfig:
        return
    file = Path(kubeconfig)
    try:
        file.read_bytes()
        mode = file.stat().st_mode
    except OSError as error:
        raise ConfigurationError(f"site.kubeconfig = {kubeconfig}: cannot be read: {error.strerror}") from None
    if mode & stat.S_IRWXO:
        raise ConfigurationError(
            f"site.kubeconfig = {kubeconfig}: everybody may read it (mode {stat.S_IMODE(mode):04o}); "
            f"run: chmod 600 {kubeconfig}"
        )


def _told(error: BaseException) -> str:
    return str(error) or type(error).__name__
