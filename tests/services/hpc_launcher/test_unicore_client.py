"""Every way a site can fail and the one reaction each has, against small HTTP servers that fail on purpose."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from services._runtime.errors import PermanentError, TransientError
from services.hpc_launcher.limits import FAILURES_TO_OPEN
from services.hpc_launcher.ports import Owner
from services.hpc_launcher.unicore_client import MOST_BODY_BYTES, NotFoundError, SiteFaultError, UnicoreClient

ADA = Owner("CN=Ada", "ada1", "ztrain")
BEN = Owner("CN=Ben", "ben1", "ztrain")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Numbered:
    """Credentials that count; `fresh` ones have a number of their own. Omits keys and signatures."""

    def __init__(self) -> None:
        self.made = 0

    def authorization(self, identity: str, *, fresh: bool) -> str:
        self.made += fresh
        return f"Test {identity} {self.made}"


@asynccontextmanager
async def site(handler: Handler, **options: Any) -> AsyncIterator[tuple[UnicoreClient, list[web.Request]]]:
    """A client before a server that answers everything by one handler, and the requests that arrived."""
    arrived: list[web.Request] = []

    async def answer(request: web.Request) -> web.StreamResponse:
        arrived.append(request)
        return await handler(request)

    app = web.Application()
    app.router.add_route("*", "/{rest:.*}", answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made = client(f"http://127.0.0.1:{runner.addresses[0][1]}/X/rest/core", **options)
    try:
        yield made, arrived
    finally:
        await made.close()
        await runner.cleanup()


def client(url: str, timeout_seconds: float = 5.0, concurrent_requests: int = 8) -> UnicoreClient:
    return UnicoreClient(
        title="JUWELS",
        url=url,
        credentials=Numbered(),
        verify=True,
        requests_per_second=10_000,
        concurrent_requests=concurrent_requests,
        timeout_seconds=timeout_seconds,
    )


def always(status: int, message: str | None = None, **headers: str) -> Handler:
    async def answer(_request: web.Request) -> web.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        if message is None:
            return web.Response(status=status, text="<html>", content_type="text/html", headers=named)
        return web.json_response({"status": status, "errorMessage": message}, status=status, headers=named)

    return answer


async def get(made: UnicoreClient, owner: Owner = ADA) -> object:
    return await made.call("asking", "GET", "/jobs", owner)


@pytest.mark.parametrize(
    ("handler", "error", "words", "delay"),
    [
        (always(500, "Could not submit job"), SiteFaultError, "JUWELS: asking: Could not submit job", None),
        (always(500), SiteFaultError, "JUWELS: asking: HTTP 500", None),
        (always(502), TransientError, "HTTP 502 from a gateway", None),
        (always(504, "late"), TransientError, "HTTP 504 from a gateway", None),
        (always(302, Location="https://elsewhere/"), TransientError, "HTTP 302", None),
        (always(429, "slow", Retry_After="7"), TransientError, "slow down", 7.0),
        (always(429), TransientError, "slow down", 10.0),
        (always(429, "slow", Retry_After="86400"), TransientError, "slow down", 300.0),
        (always(429, "slow", Retry_After="Mon, 23 Nov 2026 12:00:00 GMT"), TransientError, "slow down", 10.0),
        (always(503, "Maintenance until noon"), TransientError, "takes no requests now: Maintenance until noon", 60.0),
        (always(503, "Maintenance", Retry_After="30"), TransientError, "Maintenance", 30.0),
        (always(503), TransientError, "HTTP 503", 10.0),
    ],
)
async def test_what_may_work_later_is_transient(
    handler: Handler, error: type[TransientError], words: str, delay: float | None
) -> None:
    async with site(handler) as (made, _):
        with pytest.raises(error) as caught:
            await get(made)
    assert words in caught.value.reason
    assert caught.value.delay_seconds == delay


@pytest.mark.parametrize(
    ("status", "code", "requests"),
    [(400, "rejected-by-site", 1), (401, "refused-by-site", 2), (403, "refused-by-site", 2)],
)
async def test_what_can_never_work_is_permanent_with_reason_and_remedy(status: int, code: str, requests: int) -> None:
    async with site(always(status, "Not\nfor you")) as (made, arrived):
        with pytest.raises(PermanentError) as caught:
            await get(made)
        assert len(arrived) == requests
    assert caught.value.code == code
    assert caught.value.reason == "JUWELS: asking: Not for you"
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("message", "headers", "certain"),
    [("No such job", {}, True), (None, {}, False), (None, {"X_UNICORE_SecuritySession": "some"}, True)],
)
async def test_a_404_is_certain_only_from_unicore_itself(
    message: str | None, headers: dict[str, str], certain: bool
) -> None:
    async with site(always(404, message, **headers)) as (made, _):
        with pytest.raises(NotFoundError) as caught:
            await get(made)
    assert caught.value.certain == certain


async def test_a_site_that_has_begun_to_start_is_no_refusal() -> None:
    async with site(always(403, "Could not submit job: There are no accessible targetsystem factories for: x")) as (
        made,
        _,
    ):
        with pytest.raises(SiteFaultError, match="factories"):
            await get(made)


async def test_a_refused_token_is_made_anew_once() -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(status=200 if request.headers["Authorization"].endswith(" 1") else 401)

    async with site(answer) as (made, arrived):
        await get(made)
        assert [request.headers["Authorization"] for request in arrived] == ["Test CN=Ada 0", "Test CN=Ada 1"]


async def test_a_users_session_is_reused_and_a_lost_one_is_left_out_once() -> None:
    lost = False

    async def answer(request: web.Request) -> web.Response:
        session = request.headers.get("X-UNICORE-SecuritySession")
        if session and lost:
            return web.Response(status=432)
        return web.Response(headers={"X-UNICORE-SecuritySession": session or f"new-{request.headers['Authorization']}"})

    async with site(answer) as (made, arrived):
        await get(made)
        await get(made)
        await get(made, BEN)
        lost = True
        await get(made)
        seen = [request.headers.get("X-UNICORE-SecuritySession") for request in arrived]
    assert seen == [None, "new-Test CN=Ada 0", None, "new-Test CN=Ada 0", None]


async def test_the_user_acts_with_account_and_project_and_nothing_smuggled_in() -> None:
    async with site(always(200, "")) as (made, arrived):
        await get(made)
        assert arrived[0].headers["X-UNICORE-User-Preferences"] == "uid:ada1,group:ztrain"
        for name in ("a,role:admin", "a\r\nX: y", "a b", "", "ä", "x" * 65):
            with pytest.raises(PermanentError, match="invalid-account"):
                await get(made, Owner("CN=Ada", name, "ztrain"))
        assert len(arrived) == 1


@pytest.mark.parametrize("body", ["<html>", "", "[]", '"x"', "{"])
async def test_what_is_no_json_object_is_transient(body: str) -> None:
    async def answer(_request: web.Request) -> web.Response:
        return web.Response(text=body, content_type="application/json")

    async with site(answer) as (made, _):
        with pytest.raises(TransientError, match="not JSON"):
            await made.document("asking", "/jobs", ADA)


async def test_an_endless_answer_is_cut() -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(MOST_BODY_BYTES // 65536 + 2):
            await response.write(b"x" * 65536)
        return response

    async with site(answer) as (made, _):
        with pytest.raises(TransientError, match="too large"):
            await get(made)


async def test_a_site_that_is_down_costs_nothing_after_a_few_tries() -> None:
    made = client("http://127.0.0.1:1/X/rest/core")
    for _ in range(FAILURES_TO_OPEN):
        with pytest.raises(TransientError) as caught:
            await get(made)
        assert caught.value.delay_seconds is None
    with pytest.raises(TransientError) as caught:
        await get(made)
    assert caught.value.delay_seconds is not None
    assert made.troubles()[0].startswith("JUWELS does not answer")
    await made.close()


async def test_a_hanging_site_is_given_up_by_the_budget_which_names_the_operation_and_slows_no_other_site() -> None:
    async def hang(_request: web.Request) -> web.Response:
        await asyncio.Event().wait()
        return web.Response()

    async with site(hang, timeout_seconds=0.3, concurrent_requests=2) as (stuck, _), site(always(200, "")) as (good, _):
        hanging = [asyncio.create_task(get(stuck)) for _ in range(20)]
        async with asyncio.timeout(5):
            for _ in range(20):
                await get(good)
            errors = await asyncio.gather(*hanging, return_exceptions=True)
    assert all(isinstance(error, TransientError) for error in errors)
    assert str(errors[0]) == "JUWELS: asking: no answer within 0.3 s"
    # Most never reached the site: the breaker spared them and us the wait.
    assert sum("does not answer" in str(error) for error in errors) >= 10


async def test_a_cancelled_request_says_nothing_of_the_site() -> None:
    waits = asyncio.Event()

    async def hang(_request: web.Request) -> web.Response:
        waits.set()
        await asyncio.Event().wait()
        return web.Response()

    async with site(hang) as (made, _):
        for _ in range(FAILURES_TO_OPEN + 1):
            waits.clear()
            task = asyncio.create_task(get(made))
            await waits.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert made.troubles() == []


async def test_a_broken_connection_is_transient() -> None:
    async def drop(request: web.Request) -> web.Response:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    async with site(drop) as (made, _):
        with pytest.raises(TransientError, match="JUWELS: asking"):
            await get(made)


async def test_no_token_appears_in_any_error() -> None:
    async def echo(request: web.Request) -> web.Response:
        return web.json_response({"errorMessage": "no"}, status=400, headers={"X": request.headers["Authorization"]})

    async with site(echo) as (made, _):
        with pytest.raises(PermanentError) as caught:
            await get(made)
    assert "Test CN" not in str(caught.value) + caught.value.reason + caught.value.remedy
