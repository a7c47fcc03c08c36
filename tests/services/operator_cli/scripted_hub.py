"""A hub and a user's server as far as the probe sees them, over HTTP and websocket. Omits JupyterHub and Jupyter."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

READY: list[dict[str, Any]] = [{"message": "The job runs."}, {"message": "Ready", "ready": True}]
WHERE = {"sum": 42, "listening": ["127.30.0.11"], "peers": ["127.30.0.2"], "job": "1"}


class ScriptedHub:
    """Answers as it is told; `seen` are the calls it got, with names as they were before escaping."""

    def __init__(self) -> None:
        self.start: tuple[int, dict[str, Any]] = (202, {})
        self.stop: tuple[int, dict[str, Any]] = (204, {})
        self.progress: list[dict[str, Any]] = READY
        self.printed = json.dumps(WHERE)
        self.kernel_error = ""
        self.seen: list[str] = []
        self.options: Any = None
        self.url = ""
        self._stopped = False

    def app(self) -> web.Application:
        app = web.Application()
        server = "/hub/api/users/{user}/servers/{name}"
        app.add_routes(
            [
                web.post(server, self._start),
                web.delete(server, self._stop),
                web.get(server + "/progress", self._progress),
                web.get("/hub/api/users/{user}", self._user),
                web.post("/user/{user}/{name}/api/kernels", self._kernel),
                web.get("/user/{user}/{name}/api/kernels/{kernel}/channels", self._channels),
            ]
        )
        return app

    def _see(self, request: web.Request) -> None:
        assert request.headers["Authorization"] == "token secret"
        self.seen.append(f"{request.method} {request.match_info['user']}")

    async def _start(self, request: web.Request) -> web.Response:
        self._see(request)
        self.options = (await request.json())["user_options"]
        status, body = self.start
        return web.json_response(body, status=status)

    async def _stop(self, request: web.Request) -> web.Response:
        self._see(request)
        self._stopped = True
        status, body = self.stop
        return web.Response(status=status) if status == 204 else web.json_response(body, status=status)

    async def _progress(self, request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await answer.prepare(request)
        for event in self.progress:
            await answer.write(f"data: {json.dumps(event)}\n\n".encode())
        return answer

    async def _user(self, request: web.Request) -> web.Response:
        return web.json_response({"servers": {} if self._stopped else {"any": {}}})

    async def _kernel(self, request: web.Request) -> web.Response:
        self._see(request)
        return web.json_response({"id": "k1"}, status=201)

    async def _channels(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        asked = await socket.receive_json()

        def answer(kind: str, content: dict[str, Any], parent: str = "") -> dict[str, Any]:
            about = {"msg_id": parent or asked["header"]["msg_id"]}
            return {"msg_type": kind, "parent_header": about, "content": content}

        await socket.send_json(answer("stream", {"text": "of another cell"}, parent="other"))
        await socket.send_json(answer("status", {"execution_state": "busy"}))
        if self.kernel_error:
            await socket.send_json(answer("error", {"ename": "OSError", "evalue": self.kernel_error}))
        else:
            half = len(self.printed) // 2
            await socket.send_json(answer("stream", {"text": self.printed[:half]}))
            await socket.send_json(answer("stream", {"text": self.printed[half:]}))
            await socket.send_json(answer("status", {"execution_state": "idle"}))
        await socket.close()
        return socket


@asynccontextmanager
async def scripted_hub() -> AsyncIterator[ScriptedHub]:
    """A running one."""
    hub = ScriptedHub()
    runner = web.AppRunner(hub.app(), shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    hub.url = f"http://127.0.0.1:{runner.addresses[0][1]}/"
    try:
        yield hub
    finally:
        await runner.cleanup()
