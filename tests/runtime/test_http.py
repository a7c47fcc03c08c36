"""The small HTTP server of a service: alive, ready or why not, measured, and gone when it is closed."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest
from aiohttp import web

from services._runtime.http import HttpServer


async def test_it_says_alive_ready_and_why_not() -> None:
    problems: list[str] = []

    async def hello(_request: web.Request) -> web.Response:
        return web.Response(text="hello")

    server = HttpServer(lambda: problems, host="127.0.0.1", port=0, routes=[web.get("/hello", hello)])
    await server.start()
    url = f"http://127.0.0.1:{server.port}"
    async with aiohttp.ClientSession() as http:
        async with http.get(f"{url}/readyz") as answer:
            assert (answer.status, await answer.json()) == (200, {"ready": True, "problems": []})
        problems.append("the site does not answer")
        async with http.get(f"{url}/readyz") as answer:
            assert (answer.status, await answer.json()) == (503, {"ready": False, "problems": problems})
        async with http.get(f"{url}/healthz") as answer:
            assert answer.status == 200
        async with http.get(f"{url}/metrics") as answer:
            assert answer.content_type == "text/plain"
            assert "# TYPE farlab_events_appended_total counter" in await answer.text()
        async with http.get(f"{url}/hello") as answer:
            assert await answer.text() == "hello"
        async with http.get(f"{url}/nothing") as answer:
            assert answer.status == 404
    await server.close()
    with pytest.raises(OSError, match="Connect call failed"):
        await asyncio.open_connection("127.0.0.1", server_port(url))


async def test_a_body_that_is_too_large_is_refused() -> None:
    async def takes(request: web.Request) -> web.Response:
        return web.Response(text=str(len(await request.read())))

    server = HttpServer(list, host="127.0.0.1", port=0, routes=[web.post("/takes", takes)])
    await server.start()
    async with aiohttp.ClientSession() as http:
        for size, status in ((60_000, 200), (70_000, 413)):
            async with http.post(f"http://127.0.0.1:{server.port}/takes", data=b"x" * size) as answer:
                assert answer.status == status
    await server.close()


async def test_a_port_that_is_taken_is_an_error() -> None:
    one = HttpServer(list, host="127.0.0.1", port=0)
    await one.start()
    two = HttpServer(list, host="127.0.0.1", port=one.port)
    with pytest.raises(OSError, match="in use"):
        await two.start()
    await two.close()
    await one.close()


def server_port(url: str) -> int:
    return int(url.rpartition(":")[2])
