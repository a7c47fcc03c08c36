"""What is left of a session: each kind found where it is, none of others', and nothing when all is cleared."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest
from aiohttp import web

from schemas.base import UserName
from schemas.quota import QuotaUpdated, Released, Reserved
from schemas.session import SessionEvent
from schemas.subjects import Subjects
from services._runtime.connection import Broker
from services._runtime.errors import TransientError
from services._runtime.leases import Lease
from services._runtime.log import Recorded
from services._runtime.settings import Configuration
from services._runtime.systems import Emulated
from services._runtime.vault import Vault
from services.hpc_launcher.ports import Marks
from services.operator_cli.leftovers import Server, left_behind, reserved, traces
from tests.services.operator_cli.conftest import signed_in
from tests.support.samples import HUB, SYSTEM, Story, stamp

SUBJECTS = Subjects()
ADAS = Server("ada", "lab")


@pytest.fixture
async def listener() -> AsyncIterator[int]:
    """A port somebody listens on."""
    server = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", 0)
    yield int(server.sockets[0].getsockname()[1])
    server.close()
    await server.wait_closed()


@pytest.fixture
def real(guarded: Configuration) -> Configuration:
    """The broker's installation, with a system that is not emulated: nobody to ask for jobs."""
    systems = {name: msgspec.structs.replace(each, emulated=None) for name, each in guarded.systems.items()}
    return msgspec.structs.replace(guarded, systems=systems)


def history(*events: SessionEvent) -> list[Recorded]:
    return [Recorded(number, stamp()(event, after=number, cause=None)) for number, event in enumerate(events, 1)]


async def append(broker: Broker, event: SessionEvent) -> None:
    scope = SUBJECTS.session(event.session)
    before = await broker.log.history("SESSIONS", scope)
    after = before[-1].sequence if before else 0
    stamped = stamp()(event, after=after, cause=None)
    await broker.log.append("SESSIONS", SUBJECTS.session_event(stamped), stamped, scope=scope, after=after)


def reservation(story: Story, change: type[Reserved] | type[Released], used: int) -> QuotaUpdated:
    what = change(session=story.session, user=UserName(story.user), amount=1)
    return QuotaUpdated(vo="default", system=SYSTEM, resource="sessions", limit=5, used=used, change=what)


async def update(broker: Broker, event: QuotaUpdated) -> None:
    scope = SUBJECTS.quota_updated(event)
    before = await broker.log.history("QUOTAS", scope)
    after = before[-1].sequence if before else 0
    stamped = stamp()(event, after=after, cause=None)
    await broker.log.append("QUOTAS", scope, stamped, scope=scope, after=after)


def test_only_the_servers_looked_for_are_traced_and_others_tunnels_are_in_use() -> None:
    ada, ben, over = Story(user="ada", server_name="lab"), Story(user="ben"), Story(user="eve")
    events = [
        history(
            ada.requested(), ada.admitted(), ada.created(), ada.submitted(), ada.listening(), ada.tunnel(port=7001)
        ),
        history(
            ben.requested(), ben.admitted(), ben.created(), ben.submitted(), ben.listening(), ben.tunnel(port=7002)
        ),
        history(over.requested(), over.tunnel(port=7003), over.ended()),
        history(Story(user="ada", server_name="lab").created()),
    ]
    traced = traces(events, [ADAS])
    assert list(traced.states) == [ada.session]
    assert traced.tunnels == {ada.session: {("127.0.0.1", 7001)}}
    assert traced.in_use == {("127.0.0.1", 7002)}


def test_a_reservation_is_held_until_it_is_released() -> None:
    one, two = Story(), Story()
    events = [reservation(one, Reserved, 1), reservation(two, Reserved, 2), reservation(one, Released, 1)]
    recorded = [Recorded(number, stamp()(event, after=number, cause=None)) for number, event in enumerate(events, 1)]
    assert reserved(recorded) == {(two.session, "sessions on demo-hpc")}


async def test_everything_a_session_leaves_is_found_and_nothing_when_it_is_gone(
    real: Configuration, listener: int
) -> None:
    story, others = Story(server_name="lab"), Story(user="ben")
    async with (
        signed_in(real, "hub-bridge") as hub,
        signed_in(real, "accounts") as accounts,
        signed_in(real, "hpc-launcher") as launcher,
        signed_in(real, "tunneler") as tunneler,
    ):
        for each in (story, others):
            await append(hub, each.requested())
            await append(accounts, each.admitted())
            await update(accounts, reservation(each, Reserved, 1))
            for event in (each.created(), each.submitted(), each.listening()):
                await append(launcher, event)
        await append(tunneler, story.tunnel(port=listener))
        vault = Vault(hub.vault, real.keys_folder, "hub-bridge")
        lease = Lease(tunneler.leases, f"tunnel.{story.session}", "tunneler-1")
        await vault.put(story.session, "tunneler", {"secret": "canary"})
        await vault.put(others.session, "tunneler", {"secret": "canary"})
        await lease.acquire()
        found = await left_behind(real, [ADAS], patience_seconds=0)
        assert sorted(found) == [
            f"lease tunnel.{story.session}",
            f"listener 127.0.0.1:{listener} of session {story.session}'s tunnel",
            f"quota sessions on demo-hpc of session {story.session}",
            f"session {story.session} has not ended",
            f"vault entry {story.session}.tunneler",
        ]
        looking = asyncio.create_task(left_behind(real, [ADAS], patience_seconds=20))
        await append(launcher, story.ended())
        await append(tunneler, others.tunnel(port=listener))  # the port is another session's now
        await vault.forget(story.session)
        await lease.release()
        await update(accounts, reservation(story, Released, 0))
        assert await looking == []


async def test_a_job_of_a_session_is_found_at_an_emulated_site_by_its_tag(real: Configuration) -> None:
    story, other = Story(server_name="lab"), Story(user="ben")

    async def jobs(_request: web.Request) -> web.Response:
        marks = [Marks("farlab", HUB, each.session).words for each in (story, other)]
        listed = [{"id": f"job-{n}", "status": "RUNNING", "tags": words} for n, words in enumerate(marks)]
        return web.json_response({"jobs": listed})

    app = web.Application()
    app.router.add_get("/emulator/jobs", jobs)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        url = f"http://127.0.0.1:{runner.addresses[0][1]}/DEMO/rest/core"
        async with signed_in(real, "hub-bridge") as hub:
            for each in (story, other):
                await append(hub, each.requested())
                await append(hub, each.stop())
        here = Emulated(login_node="127.30.0.2", compute_nodes=["127.30.0.11"])
        systems = {
            name: msgspec.structs.replace(
                each, emulated=here, site=msgspec.structs.replace(each.site, url=url, ca_file="")
            )
            for name, each in real.systems.items()
        }
        found = await left_behind(msgspec.structs.replace(real, systems=systems), [ADAS], patience_seconds=0)
    finally:
        await runner.cleanup()
    assert [line for line in found if line.startswith("job ")] == ["job job-0 (RUNNING) at demo-hpc"]


async def test_a_site_that_does_not_answer_is_said(guarded: Configuration) -> None:
    here = Emulated(login_node="127.30.0.2", compute_nodes=["127.30.0.11"])
    systems = {
        name: msgspec.structs.replace(
            each, emulated=here, site=msgspec.structs.replace(each.site, url="http://127.0.0.1:1/DEMO/rest/core")
        )
        for name, each in guarded.systems.items()
    }
    with pytest.raises(TransientError, match=r"the emulated site of demo-hpc did not answer at .*/emulator/jobs"):
        await left_behind(msgspec.structs.replace(guarded, systems=systems), [ADAS])
