"""A real JupyterHub, its proxy and NATS: starts, progress, refusals, cancel, moves. The others play along."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from urllib.parse import quote

import pytest

from schemas.lifecycle import Ended, Ready, Stopping, Submitted, Withdrawn
from schemas.session import StopRequested
from tests.services.hub_bridge.installation import PASSWORD, Hub, installation, no_secret_is_left
from tests.services.hub_bridge.others import REFUSED, Others

pytestmark = pytest.mark.timeout(180)

USERS = ["ada", "ben", "cleo"]


async def test_starts_of_every_kind(tmp_path: Path) -> None:
    async with installation(tmp_path, USERS) as (hub, others, broker):
        await hub.start()
        await _a_start_to_the_end_of_its_life(hub, others)
        await _a_start_with_options_no_system_allows(hub, others)
        await _a_start_the_accounts_refuse(hub, others)
        await _a_start_that_is_cancelled(hub, others)
        await _a_start_that_the_operator_stops(hub, others)
        await _a_job_that_ends_by_itself(hub, others)
        await _a_named_server_that_moves(hub, others)
        await no_secret_is_left(broker)
        assert "Traceback" not in hub.log_text()


async def _a_start_to_the_end_of_its_life(hub: Hub, others: Others) -> None:
    others.queue.clear()
    status, answer = await hub.start_server("ada")
    assert status == 202, answer
    session = await others.until("ada", Submitted)
    readers = [asyncio.create_task(hub.progress("ada")) for _ in range(2)]
    late = await _first_messages(hub, "ada", 6)
    others.queue.set()
    told = [await reader for reader in readers]

    assert [message.get("event") for message in told[0]] == [
        None,
        "start-requested",
        "start-admitted",
        "job-created",
        "job-submitted",
        "job-status-changed",
        "progress-reported",
        "server-listening",
        "tunnel-ready",
        "server-ready",
        None,
    ]
    assert told[0] == told[1]
    assert late == told[0][:6], "who comes late hears the story from its beginning"
    assert [message["progress"] for message in told[0]] == sorted(message["progress"] for message in told[0])
    assert told[0][-1]["ready"]
    assert (await hub.visit("ada"))["session"] == session
    assert isinstance(others.state(session), Ready)

    assert await hub.stop_server("ada") in (202, 204)
    await hub.until("ada", ready=False)
    assert isinstance(others.state(session), Ended)
    assert others.names(session).count("StartRequested") == 1


async def _first_messages(hub: Hub, user: str, count: int) -> list[dict[str, object]]:
    said: list[dict[str, object]] = []
    url = f"{hub.url}hub/api/users/{user}/server/progress"
    async with hub.http.get(url, headers=hub.headers) as stream:
        async for line in stream.content:
            if line.startswith(b"data: "):
                said.append(json.loads(line[6:]))
            if len(said) == count:
                break
    return said


async def _a_start_with_options_no_system_allows(hub: Hub, others: Others) -> None:
    for options, line in [
        ({"system": "no-such"}, "system = 'no-such': not open to you; choose one of: demo-hpc"),
        ({"system": "demo-hpc", "project": "ztrain"}, "partition: missing; choose one of: batch, devel"),
        ({"partitoin": "x"}, "'partitoin': not an option; did you mean partition?"),
        (
            {"project": "ztrain", "partition": "devel", "runtime_minutes": 9999},
            "runtime_minutes = 9999: outside the partition's limits; choose between 1 and 120",
        ),
        ({"system": "../../etc" * 30}, None),
        ({"system": "; rm -rf / #\n\x00 %s"}, None),
    ]:
        status, answer = await hub.start_server("ben", options)
        assert status == 400, answer
        if line is not None:
            assert answer["message"] == line
        assert "\n" not in answer["message"]
        assert len(answer["message"]) < 300
    assert others.sessions("ben") == []


async def _a_start_the_accounts_refuse(hub: Hub, others: Others) -> None:
    status, answer = await hub.start_server(
        "ben", {"system": "demo-hpc", "project": REFUSED, "partition": "batch", "runtime_minutes": 30}
    )
    assert (status, answer["message"]) == (403, "The <i>budget</i> is used up. Ask.")
    failed = (await hub.progress("ben"))[-1]
    assert failed["failed"]
    assert "&lt;i&gt;budget&lt;/i&gt;" in failed["html_message"]
    (session,) = others.sessions("ben")
    assert others.names(session)[-1] == "SessionEnded"


async def _a_start_that_is_cancelled(hub: Hub, others: Others) -> None:
    others.queue.clear()
    await hub.start_server("ben")
    session = await others.until("ben", Submitted)
    reader = asyncio.create_task(hub.progress("ben"))
    await _first_messages(hub, "ben", 6)
    assert await hub.stop_server("ben") in (202, 204)
    await hub.until("ben", ready=False)
    last = (await reader)[-1]
    assert last["failed"]
    assert not last.get("ready"), "a cancelled start never looks like one that succeeded"
    assert isinstance(others.state(session), Ended)
    assert "StopRequested" in others.names(session)
    others.queue.set()
    await hub.start_server("ben")
    await hub.until("ben")
    assert len(others.sessions("ben")) == 3
    assert await hub.stop_server("ben") in (202, 204)


async def _a_start_that_the_operator_stops(hub: Hub, others: Others) -> None:
    others.queue.clear()
    await hub.start_server("cleo")
    session = await others.until("cleo", Submitted)
    reader = asyncio.create_task(hub.progress("cleo"))
    await _first_messages(hub, "cleo", 6)
    request = others.state(session).request  # type: ignore[union-attr]
    assert await others.record(
        StopRequested(hub=request.hub, system=request.system, session=session, by="root", reason="maintenance")
    )
    last = (await reader)[-1]
    assert last["failed"]
    await hub.until("cleo", ready=False)
    assert others.names(session).count("StopRequested") == 1
    others.queue.set()


async def _a_job_that_ends_by_itself(hub: Hub, others: Others) -> None:
    await hub.start_server("cleo")
    session = await others.until("cleo", Ready)
    await hub.until("cleo")
    await others.end(session, outcome="expired", reason="The runtime is over.")
    await hub.until("cleo", ready=False, seconds=5)  # JupyterHub's own poll would take half a minute
    assert not isinstance(others.state(session), Stopping | Withdrawn)


async def _a_named_server_that_moves(hub: Hub, others: Others) -> None:
    await hub.start_server("ada", name="second")
    session = await others.until("ada", Ready, server_name="second")
    await hub.until("ada", "second")
    before = await hub.visit("ada", "second")
    new = await others.move(session)
    async with asyncio.timeout(5):
        while (there := await _port(hub)) != new.port:
            assert there in (0, before["port"])
    assert (await hub.visit("ada", "second"))["session"] == session
    assert await hub.stop_server("ada", "second") in (202, 204)
    await hub.until("ada", "second", ready=False)


async def _port(hub: Hub) -> int:
    async with hub.http.get(f"{hub.url}user/ada/second/x") as answer:
        return int((await answer.json())["port"]) if answer.status == 200 else 0


async def test_the_pages(tmp_path: Path) -> None:
    """What a browser gets: log in, the form, the progress page; and that a form's mistake is shown in one line."""
    async with installation(tmp_path, USERS) as (hub, others, _broker):
        await hub.start()
        await _log_in(hub)
        async with hub.http.get(f"{hub.url}hub/spawn") as answer:
            page = await answer.text()
        assert 'id="farlab-options"' in page
        assert '"ada1"' in page
        xsrf = _cookie(hub)
        fields = {"system": "demo-hpc", "account": "ada1", "project": "ztrain", "partition": "devel"}
        others.queue.clear()
        async with hub.http.post(
            f"{hub.url}hub/spawn/ada?_xsrf={xsrf}", data={**fields, "runtime_minutes": "<b>1000"}
        ) as answer:
            page = await answer.text()
        assert "runtime_minutes = &#39;&lt;b&gt;1000&#39;: not a whole number; choose between 1 and 120" in page
        assert others.sessions("ada") == []
        async with hub.http.post(
            f"{hub.url}hub/spawn/ada?_xsrf={xsrf}", data={**fields, "runtime_minutes": "60", "reservation": ""}
        ) as answer:
            page = await answer.text()
        assert 'id="farlab-progress"' in page
        assert 'data-server-url="/hub/api/users/ada/server"' in page
        session = await others.until("ada", Submitted)
        async with hub.http.delete(
            f"{hub.url}hub/api/users/ada/server", headers={"X-XSRFToken": _cookie(hub)}, json={}
        ) as answer:
            assert answer.status in (202, 204), await answer.text()
        await hub.until("ada", ready=False)
        assert isinstance(others.state(session), Ended)
        async with hub.http.get(f"{hub.url}hub/spawn") as answer:
            assert '"runtime_minutes":60' in await answer.text(), "the form remembers the last choice"


async def _log_in(hub: Hub) -> None:
    async with hub.http.get(f"{hub.url}hub/login") as answer:
        assert answer.status == 200
    async with hub.http.post(
        f"{hub.url}hub/login", data={"username": "ada", "password": PASSWORD, "_xsrf": _cookie(hub)}
    ) as answer:
        assert answer.status == 200, await answer.text()


def _cookie(hub: Hub) -> str:
    return next(cookie.value for cookie in hub.http.cookie_jar if cookie.key == "_xsrf")


HOSTILE = "zoë $(id) ;&'<b>%s"
LONG = "ø" * 200


async def test_hostile_names(tmp_path: Path) -> None:
    """Names of users and servers are data everywhere; one that fits nowhere is refused in one line."""
    async with installation(tmp_path, [HOSTILE, LONG]) as (hub, others, broker):
        await hub.start()
        user = quote(HOSTILE)
        status, answer = await hub.start_server(user, name="second")
        assert status in (201, 202), answer
        session = await others.until(HOSTILE, Ready, server_name="second")
        await hub.until(user, "second")
        assert (await hub.visit(user, "second"))["session"] == session
        for name in ("..%2F..%2Fetc", "%24%28id%29", "x" * 200, "Ünï", "a%0Ab"):
            status, answer = await hub.start_server(user, name=name)
            assert status in (400, 404, 500), answer
            assert "Traceback" not in str(answer)
        status, answer = await hub.start_server(quote(LONG))
        assert status == 400, answer
        assert "use a shorter name" in answer["message"]
        assert list(others.story) == [session]
        assert await hub.stop_server(user, "second") in (202, 204)
        await hub.until(user, "second", ready=False)
        await no_secret_is_left(broker)
