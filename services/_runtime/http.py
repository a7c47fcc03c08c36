"""`/healthz`, `/readyz` and `/metrics` of a service, and whatever routes it adds. Binds to the stated address only."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from aiohttp import web
from prometheus_client import generate_latest

Problems = Callable[[], Sequence[str]]
"""Why the service is not ready, one line each; empty when it is."""


class HttpServer:
    """The service's small HTTP server; port 0 takes a free one."""

    def __init__(self, problems: Problems, *, host: str, port: int, routes: Sequence[web.RouteDef] = ()) -> None:
        self._problems = problems
        self._host = host
        self._wanted_port = port
        self._app = web.Application(client_max_size=64 * 1024)
        self._app.add_routes(
            [web.get("/healthz", self._health), web.get("/readyz", self._ready), web.get("/metrics", self._metrics)]
        )
        self._app.add_routes(routes)
        self._runner = web.AppRunner(self._app, access_log=None, handle_signals=False, shutdown_timeout=2.0)

    @property
    def port(self) -> int:
        """The port it listens on, once started."""
        return int(self._runner.addresses[0][1])

    async def start(self) -> None:
        """Listens. Raises OSError when the address is taken."""
        await self._runner.setup()
        await web.TCPSite(self._runner, self._host, self._wanted_port).start()

    async def close(self) -> None:
        """Answers what is in hand and stops."""
        await self._runner.cleanup()

    async def _health(self, _request: web.Request) -> web.Response:
        return web.json_response({"status": "alive"})

    async def _ready(self, _request: web.Request) -> web.Response:
        problems = list(self._problems())
        return web.json_response({"ready": not problems, "problems": problems}, status=503 if problems else 200)

    async def _metrics(self, _request: web.Request) -> web.Response:
        return web.Response(body=generate_latest(), headers={"Content-Type": "text/plain; version=0.0.4"})
