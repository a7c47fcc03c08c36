"""One emulated UNICORE site: listens, admits, misbehaves when told to. What it answers is in `resources`.

A stand-in for development and tests; it must never be used for production.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

from aiohttp import web

from emulators import certificates
from emulators.unicore_site.configuration import SiteConfiguration
from emulators.unicore_site.control import PREFIX, Control
from emulators.unicore_site.faults import AFTERWARDS, Fault, Faults
from emulators.unicore_site.identity import CALLER, LIFETIME_HEADER, SESSION, SESSION_HEADER, Doorkeeper
from emulators.unicore_site.jobs import Job
from emulators.unicore_site.notifications import Notifier
from emulators.unicore_site.refusals import RefusedError, error
from emulators.unicore_site.resources import Resources
from emulators.unicore_site.store import Change, JobStore

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
MOST_BODY_BYTES = 64 * 1024 * 1024


class UnicoreSite:
    """One emulated site: `async with UnicoreSite(configuration) as site: site.base_url`.

    `crash` is what the faults of that name do; without it they only drop the connection.
    """

    def __init__(self, configuration: SiteConfiguration, *, crash: Callable[[], object] | None = None) -> None:
        self.configuration = configuration
        self.folder = Path(configuration.folder).absolute()
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.faults = Faults()
        self.requests: Counter[str] = Counter()
        self.ca_file, certificate, key = certificates.make(self.folder / "tls", configuration.host, configuration.name)
        self.server_dn = f"CN={configuration.name}"
        self._certificate = certificate.read_text()
        self.store = JobStore(configuration, self._changed)
        self._crash = crash
        self._doorkeeper = Doorkeeper(configuration)
        self._resources = Resources(
            configuration, self.store, self._doorkeeper, self.faults, lambda: self._certificate, self.server_dn
        )
        self._notifier = Notifier(
            self.server_dn, key.read_bytes(), loses=self.faults.take_notification, kept=self.store.keep
        )
        self._tls: ssl.SSLContext | None = None
        if configuration.tls:
            self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._tls.load_cert_chain(certificate, key)
        self._runner = web.AppRunner(self._app(), access_log=None, handle_signals=False, shutdown_timeout=1.0)
        self._port = configuration.port

    @property
    def origin(self) -> str:
        """Scheme, host and port."""
        return f"{'https' if self._tls else 'http'}://{self.configuration.host}:{self._port}"

    @property
    def base_url(self) -> str:
        """The base of the REST API."""
        return f"{self.origin}/{self.configuration.name}/rest/core"

    async def __aenter__(self) -> UnicoreSite:
        ports = self.folder / "ports.json"
        ports.unlink(missing_ok=True)
        await self._runner.setup()
        try:
            site = web.TCPSite(self._runner, self.configuration.host, self._port, ssl_context=self._tls)
            await site.start()
        except OSError:
            await self._runner.cleanup()
            raise
        self._port = int(self._runner.addresses[0][1])
        self._resources.url = self.base_url
        await self.store.recover()
        temporary = ports.with_suffix(".json.new")
        temporary.write_text(json.dumps({"base_url": self.base_url, "origin": self.origin, "ca": str(self.ca_file)}))
        temporary.replace(ports)
        return self

    async def __aexit__(self, *_: object) -> None:
        (self.folder / "ports.json").unlink(missing_ok=True)
        await self._runner.cleanup()
        await self.store.close()
        await self._notifier.close()

    def lose_sessions(self) -> None:
        """Forgets all security sessions, as a restart of the server does."""
        self._doorkeeper.sessions.clear()

    def _app(self) -> web.Application:
        app = web.Application(middlewares=[self._gate], client_max_size=MOST_BODY_BYTES)
        app.add_routes(self._resources.routes(f"/{self.configuration.name}/rest/core"))
        app.add_routes(Control(self.store, self.faults, self.requests).routes())
        return app

    @web.middleware
    async def _gate(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path.startswith(PREFIX):
            return await self._answer(request, handler, Control.admit)
        resource = request.match_info.route.resource
        self.requests[f"{request.method} {resource.canonical if resource else request.path}"] += 1
        fault = self.faults.take(request.method, request.path)
        if fault is not None and (broken := await self._broken(request, fault)) is not None:
            return broken
        response = await self._answer(request, handler, self._admit)
        if fault is not None and fault.kind in AFTERWARDS:
            return self._drop(request, fault)
        return response

    async def _admit(self, request: web.Request) -> None:
        if not request.path.endswith("/certificate"):
            request[CALLER], request[SESSION] = await self._doorkeeper.admit(request.headers)

    async def _answer(
        self, request: web.Request, handler: Handler, admit: Callable[[web.Request], Awaitable[None]]
    ) -> web.StreamResponse:
        """The handler's answer; a refusal in UNICORE's form, a file that cannot be had as its fault 500."""
        try:
            await admit(request)
            response = await handler(request)
        except RefusedError as refused:
            response = refused.response()
        except web.HTTPException as refused:
            response = error(refused.status, refused.reason)
        except OSError as failed:
            response = error(500, f"Cannot access the file: {failed.strerror}")
        if SESSION in request and not response.prepared:
            session = request[SESSION]
            response.headers[SESSION_HEADER] = session.id
            response.headers[LIFETIME_HEADER] = str(int(session.left_seconds() * 1000))
        return response

    async def _broken(self, request: web.Request, fault: Fault) -> web.Response | None:
        match fault.kind:
            case "slow":
                await asyncio.sleep(fault.seconds)
            case "hang":
                await asyncio.Event().wait()
            case "error500":
                return error(500, "Internal server error")
            case "drop" | "crash":
                return self._drop(request, fault)
            case "unauthorised":
                return error(401, "")
            case "forbidden":
                return error(403, "")
            case "too-many-requests":
                response = error(429, "Too many requests")
                response.headers["Retry-After"] = str(int(fault.seconds))
                return response
            case "submission-disabled":
                return error(503, self.faults.message)
            case "invalid-json":
                return web.Response(text="<html>proxy error</html>", content_type="application/json")
            case "missing":
                return web.Response(status=404, headers={SESSION_HEADER: request.headers.get(SESSION_HEADER, "")})
            case "drop-after" | "crash-after" | "lost-notification":
                pass
        return None

    def _drop(self, request: web.Request, fault: Fault) -> web.Response:
        if fault.kind in ("crash", "crash-after") and self._crash is not None:
            self._crash()
        if request.transport is not None:
            request.transport.abort()
        return web.Response()

    def _changed(self, job: Job, change: Change) -> None:
        self._notifier.tell(job, change, f"{self.base_url}/jobs/{job.id}")
