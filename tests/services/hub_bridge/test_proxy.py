"""The proxy as a process: answers pass as they come, many at once, and what a browser leaves the target hears of."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator

import aiohttp
import pytest
from aiohttp import web
from yarl import URL

from tests.services.hub_bridge.installation import free_ports

TOKEN = "token-of-the-proxy"
API_PORTS: dict[str, int] = {}


class Target:
    """A server with answers of every kind."""

    def __init__(self) -> None:
        self.release = asyncio.Event()
        self.left = asyncio.Event()
        self.streams = 0

    async def stream(self, request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await answer.prepare(request)
        self.streams += 1
        try:
            await answer.write(b"data: first\n\n")
            await self.release.wait()
            await answer.write(b"data: second\n\n")
        except (asyncio.CancelledError, ConnectionError):
            self.left.set()
            raise
        return answer

    async def echo(self, request: web.Request) -> web.Response:
        answer = web.json_response(
            {"method": request.method, "path": request.raw_path, "body": (await request.read()).decode()}
        )
        answer.headers.add("Set-Cookie", "a=1")
        answer.headers.add("Set-Cookie", "b=2")
        return answer

    async def moved(self, request: web.Request) -> web.Response:
        raise web.HTTPFound("/elsewhere")

    async def none(self, request: web.Request) -> web.Response:
        return web.Response(status=204)

    async def socket(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async for message in socket:
            await socket.send_str(f"heard {message.data}")
        return socket


@pytest.fixture
async def target() -> AsyncIterator[tuple[Target, int]]:
    target = Target()
    app = web.Application()
    app.router.add_get("/stream", target.stream)
    app.router.add_get("/moved", target.moved)
    app.router.add_get("/none", target.none)
    app.router.add_get("/socket", target.socket)
    app.router.add_route("*", "/echo{rest:.*}", target.echo)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield target, int(runner.addresses[0][1])
    await runner.cleanup()


@pytest.fixture
async def url(target: tuple[Target, int]) -> AsyncIterator[str]:
    port, api = free_ports(2)
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "services.hub_bridge.proxy", "--log-level", "error"),
            *("--ip", "127.0.0.1", "--port", str(port), "--api-ip", "127.0.0.1", "--api-port", str(api)),
            *("--default-target", f"http://127.0.0.1:{target[1]}"),
        ],
        env={"CONFIGPROXY_AUTH_TOKEN": TOKEN, "PATH": ""},
        stdin=subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(30):
            while not (await _listens(port) and await _listens(api)):
                await asyncio.sleep(0.02)
        url = f"http://127.0.0.1:{port}"
        API_PORTS[url] = api
        yield url
    finally:
        process.kill()
        process.wait(10)


async def _listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


async def test_what_passes(target: tuple[Target, int], url: str) -> None:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http, asyncio.timeout(30):
        await _many_streams_pass_as_they_come(target[0], http, url)
        await _requests_and_answers_pass_whole(http, url)
        await _websockets_pass(http, url)
        await _a_stream_the_browser_leaves_is_left(target[0], http, url)


async def _many_streams_pass_as_they_come(target: Target, http: aiohttp.ClientSession, url: str) -> None:
    streams = [await http.get(f"{url}/stream") for _ in range(40)]
    assert [await stream.content.readline() for stream in streams] == [b"data: first\n"] * 40
    assert target.streams == 40
    async with http.post(f"{url}/echo", data=b"while they last") as answer:
        assert answer.status == 200
    target.release.set()
    assert [await stream.text() for stream in streams] == ["\ndata: second\n\n"] * 40


async def _requests_and_answers_pass_whole(http: aiohttp.ClientSession, url: str) -> None:
    for method in ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"):
        body = b"" if method == "GET" else b"x" * 100_000
        async with http.request(method, URL(f"{url}/echo/a%20b/c?d=%2F", encoded=True), data=body or None) as answer:
            said = await answer.json()
        assert said == {"method": method, "path": "/echo/a%20b/c?d=%2F", "body": body.decode()}
        assert answer.headers.getall("Set-Cookie") == ["a=1", "b=2"]
    async with http.head(f"{url}/echo") as answer:
        assert answer.status == 200
    async with http.get(f"{url}/moved", allow_redirects=False) as answer:
        assert (answer.status, answer.headers["Location"]) == (302, "/elsewhere")
    async with http.get(f"{url}/none") as answer:
        assert (answer.status, await answer.read()) == (204, b"")


async def _websockets_pass(http: aiohttp.ClientSession, url: str) -> None:
    async with http.ws_connect(f"{url}/socket") as socket:
        await socket.send_str("hello")
        assert await socket.receive_str() == "heard hello"


async def _a_stream_the_browser_leaves_is_left(target: Target, http: aiohttp.ClientSession, url: str) -> None:
    target.release.clear()
    stream = await http.get(f"{url}/stream")
    await stream.content.readline()
    stream.close()
    await target.left.wait()


async def test_a_target_that_is_gone_is_a_503(url: str) -> None:
    (nobody,) = free_ports(1)
    api = f"http://127.0.0.1:{API_PORTS[url]}/api/routes/gone"
    async with aiohttp.ClientSession() as http:
        route = {"target": f"http://127.0.0.1:{nobody}"}
        async with http.post(api, json=route, headers={"Authorization": f"token {TOKEN}"}) as answer:
            assert answer.status == 201
        async with http.get(f"{url}/gone/x") as answer:
            assert answer.status == 503
