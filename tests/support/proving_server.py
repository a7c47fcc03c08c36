"""A user's server as far as a tunnel sees it: answers the proof and tells who called. Omits Jupyter."""

from __future__ import annotations

import hmac
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from hashlib import sha256

from aiohttp import web


class ProvingServer:
    """A server on `host` that answers for `key` under any base URL."""

    def __init__(self, host: str, key: str) -> None:
        self.host = host
        self.key = key
        self.port = 0
        self.callers: list[str] = []
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Listens, on the port it had before if it had one."""
        app = web.Application()
        app.router.add_get("/{base:.*}farlab/proof", self._proof)
        app.router.add_get("/{path:.*}", self._hello)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, self.host, self.port).start()
        self.port = int(self._runner.addresses[0][1])

    async def stop(self) -> None:
        """Listens no more."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _proof(self, request: web.Request) -> web.Response:
        challenge = bytes.fromhex(request.query["challenge"])
        self.callers.append(request.remote or "")
        return web.json_response({"proof": hmac.new(bytes.fromhex(self.key), challenge, sha256).hexdigest()})

    async def _hello(self, request: web.Request) -> web.Response:
        self.callers.append(request.remote or "")
        return web.Response(text=f"hello from {self.host}")


@asynccontextmanager
async def proving_server(host: str, key: str) -> AsyncIterator[ProvingServer]:
    """A running server."""
    server = ProvingServer(host, key)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()
