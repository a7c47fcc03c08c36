"""A gate in front of a site: every request of the launcher passes here, and at one of them somebody is killed."""

from __future__ import annotations

import ssl
from collections import defaultdict
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Literal

import aiohttp
import msgspec
from aiohttp import web

Step = Literal["find", "create", "umask", "file", "start"]
STEPS: tuple[Step, ...] = ("find", "create", "umask", "file", "start")
When = Literal["before", "after"]
HOP_BY_HOP = {"host", "connection", "content-length", "transfer-encoding", "keep-alive"}
SESSION_TAG = "farlab-session-"


class Kill(msgspec.Struct, frozen=True):
    """At which step of a submission, and whether the site still hears of it."""

    step: Step
    when: When


class Gate:
    """`url` is what the launcher is told; `armed` fires once and calls `kill`, after which the answer is lost."""

    def __init__(self, site_url: str, ca_file: Path, kill: Callable[[], Awaitable[None]]) -> None:
        self._site_url = site_url
        self._context = ssl.create_default_context(cafile=str(ca_file))
        self._kill = kill
        self.armed: Kill | None = None
        self.created: dict[str, set[str]] = defaultdict(set)
        self.started: set[str] = set()
        self.url = ""

    async def __aenter__(self) -> Gate:
        self._http = aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=self._context))
        app = web.Application(client_max_size=64 * 1024 * 1024)
        app.router.add_route("*", "/{path:.*}", self._pass)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/rest/core"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()
        await self._http.close()

    async def _pass(self, request: web.Request) -> web.Response:
        body, step = await request.read(), step_of(request)
        if self._fires(step, "before"):
            await self._kill()
            return _lost(request)
        try:
            answer = await self._forward(request, body)
        except (aiohttp.ClientError, OSError):
            return _lost(request)
        self._note(request, body, answer, step)
        if self._fires(step, "after"):
            await self._kill()
            return _lost(request)
        return answer

    def _fires(self, step: Step | None, when: When) -> bool:
        if self.armed is None or self.armed != (Kill(step, when) if step else None):
            return False
        self.armed = None
        return True

    async def _forward(self, request: web.Request, body: bytes) -> web.Response:
        headers = {name: value for name, value in request.headers.items() if name.lower() not in HOP_BY_HOP}
        url = self._site_url + request.rel_url.raw_path.removeprefix("/rest/core")
        query = f"?{request.rel_url.raw_query_string}" if request.rel_url.raw_query_string else ""
        async with self._http.request(request.method, url + query, data=body, headers=headers) as answer:
            passed = {name: value for name, value in answer.headers.items() if name.lower() not in HOP_BY_HOP}
            return web.Response(status=answer.status, body=await answer.read(), headers=passed)

    def _note(self, request: web.Request, body: bytes, answer: web.Response, step: Step | None) -> None:
        if step == "create" and answer.status == 201:
            tags = msgspec.json.decode(body)["Tags"]
            session = next(tag.removeprefix(SESSION_TAG) for tag in tags if tag.startswith(SESSION_TAG))
            self.created[session].add(answer.headers["Location"].rpartition("/")[2])
        if step == "start" and answer.status == 204:
            self.started.add(request.path.split("/")[-3])


def step_of(request: web.Request) -> Step | None:
    """Which step of a submission a request is."""
    path = request.path.removeprefix("/rest/core")
    match request.method, path.strip("/").split("/"):
        case "GET", ["jobs"] if SESSION_TAG in request.query.get("tags", ""):
            return "find"
        case "POST", ["jobs"]:
            return "create"
        case "PUT", ["storages", _]:
            return "umask"
        case "PUT", ["storages", _, "files", _]:
            return "file"
        case "POST", ["jobs", _, "actions", "start"]:
            return "start"
        case _:
            return None


def _lost(request: web.Request) -> web.Response:
    if request.transport is not None:
        request.transport.abort()
    return web.Response(status=502)
