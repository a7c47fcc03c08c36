"""compose.yaml brought up whole: used, looked into, its containers killed, its networks cut, restarted under load."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from aiohttp.abc import AbstractResolver, ResolveResult

from services.operator_cli.probe import Hub
from services.operator_cli.web_sign_in import WebSignIn
from tests.real.containers.engine import MARKS
from tests.real.containers.installation import ACCOUNTS, HUB, NATS, OURS, SERVICES, Installation, User
from tests.real.machine import until

pytestmark = MARKS


@pytest.fixture
async def hub(system: Installation) -> AsyncIterator[Hub]:
    """The hub's REST API, as the operator may use it."""
    timeout = aiohttp.ClientTimeout(total=20)
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar(), timeout=timeout) as http:
        yield Hub(HUB, system.secret("operator.token"), http)


def test_the_check_uses_every_system_and_finds_nothing_left(system: Installation) -> None:
    said = json.loads(
        system.operator("check", "--hub", "http://proxy:8000", "--token-file", "/run/farlab/operator.token", "--json")
    )
    assert said["ok"]
    [cluster] = said["systems"]
    [used] = [phase["detail"] for phase in cluster["phases"] if phase["name"] == "code ran"]
    networks = system.inspect("login")["NetworkSettings"]["Networks"]
    [login] = [each["IPAddress"] for name, each in networks.items() if name.endswith("_site")]
    assert used.endswith(f"reached only from {login}")
    assert json.loads(system.operator("streams", "check", "--json")) == []


async def test_a_user_signs_in_through_the_provider_and_out(system: Installation) -> None:
    connector = aiohttp.TCPConnector(resolver=Loopback())
    timeout = aiohttp.ClientTimeout(total=30)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as http:
        way = WebSignIn(HUB, http)
        await way.enter("ada", system.secret("password"), "314159", "?acr_values=mfa")
        await way.leave()


class Loopback(AbstractResolver):
    """Takes *.localhost for this machine, as browsers do."""

    async def resolve(self, host: str, port: int = 0, family: Any = socket.AF_INET) -> list[ResolveResult]:
        assert host.endswith("localhost")
        return [ResolveResult(hostname=host, host="127.0.0.1", port=port, family=socket.AF_INET, proto=0, flags=0)]

    async def close(self) -> None:
        """Nothing is open."""


def test_containers_may_do_little_and_hold_their_own_secrets_only(system: Installation) -> None:
    for service in OURS:
        told = system.inspect(service)
        limits = told["HostConfig"]
        assert told["Config"]["User"] == "farlab", service
        assert limits["ReadonlyRootfs"], service
        assert limits["CapDrop"] == ["ALL"], service
        assert not limits["Privileged"], service
        assert "no-new-privileges:true" in limits["SecurityOpt"], service
        secrets = [each for each in told["Mounts"] if "secrets-" in each.get("Name", "")]
        assert [each["RW"] for each in secrets] == [False], service
    for service in SERVICES:
        own = system.at(service, "find", "/run/farlab", "-name", "*.nk").split()
        assert own == [f"/run/farlab/nkeys/{service}.nk"]
        sealed = system.at(service, "find", "/run/farlab", "-name", "*.seal.json").split()
        assert sealed == [f"/run/farlab/keys/{service}.seal.json"]
        for each in OURS:
            assert "password" not in system.engine.docker("logs", system.container(each)).lower()


CONNECT = """
import socket, sys
try:
    socket.create_connection((sys.argv[1], int(sys.argv[2])), 2).close()
    print("reached")
except OSError as error:
    print(error)
"""


def test_who_has_no_business_with_each_other_cannot_meet(system: Installation) -> None:
    found = system.containers()

    def address(service: str, network: str) -> str:
        networks = found[service]["NetworkSettings"]["Networks"]
        return str(next(each["IPAddress"] for name, each in networks.items() if name.endswith(f"_{network}")))

    def reaches(service: str, other: str, network: str, port: int) -> bool:
        said = system.at(service, "python3", "-c", CONNECT, address(other, network), str(port))
        return said.strip() == "reached"

    allowed = [
        ("compute-1", "login", "site", 8081),  # to the hub, through the tunneler
        ("hpc-launcher", "login", "edge", 22),
        ("hub", "nats-1", "events", 4222),
    ]
    closed = [
        ("compute-1", "proxy", "front", 8000),  # what is routed, such as the internet
        ("compute-1", "hub", "inside", 8081),
        ("login", "hub", "inside", 8081),
        ("login", "nats-1", "events", 4222),
        ("compute-1", "postgresql", "database", 5432),
        ("hub", "compute-1", "site", 6818),
        ("tunneler", "compute-1", "site", 6818),
        ("tunneler", "postgresql", "database", 5432),
        ("proxy", "nats-1", "events", 4222),
        ("hpc-launcher", "hub", "inside", 8081),
    ]
    assert [way for way in allowed if not reaches(*way)] == []
    assert [way for way in closed if reaches(*way)] == []


async def test_a_session_outlives_whatever_container_is_killed(system: Installation, hub: Hub) -> None:
    ada = User(hub, "ada", "killed")
    await ada.start()
    await ada.until_ready()
    [job] = system.jobs(ACCOUNTS["ada"])
    seconds = {}
    for service in ("tunneler", "login", "hub", "hpc-launcher", "accounts", "proxy", "controller", "postgresql", *NATS):
        system.kill(service)
        until(lambda service=service: restarted(system, service), system.logs)  # type: ignore[misc]
        seconds[service] = await ada.until_server_answers()
        system.until_healthy(OURS)
        await ada.until_ready()
        assert system.jobs(ACCOUNTS["ada"]) == [job], service
    print("until the server answered again:", {name: round(each, 1) for name, each in seconds.items()})  # noqa: T201
    await ada.stop()
    until(lambda: system.jobs(ACCOUNTS["ada"]) == [], system.logs)
    assert json.loads(system.operator("sessions", "--live", "--json")) == []


def restarted(system: Installation, service: str) -> bool:
    """Whether the engine has started a killed container again."""
    told = system.inspect(service)
    return bool(told["State"]["Running"]) and told["RestartCount"] > 0


async def test_a_start_waits_for_a_site_that_is_cut_off(system: Installation, hub: Hub) -> None:
    system.network("disconnect", "edge", "hpc-launcher")
    ben = User(hub, "ben", "cut")
    await ben.start()
    [session] = json.loads(system.operator("sessions", "--live", "--user", "ben", "--json"))
    assert session["state"] == "admitted"
    assert not await ben.ready()
    system.network("connect", "edge", "hpc-launcher")
    await ben.until_ready()
    assert len(system.jobs(ACCOUNTS["ben"])) == 1

    system.network("disconnect", "edge", "tunneler")
    until(lambda: "login node lost" in system.engine.compose("logs", "--tail=20", "tunneler"), system.logs, 60)
    assert not await ben.server_answers()
    system.network("connect", "edge", "tunneler")
    back = await ben.until_server_answers()
    print(f"until the server answered after the cut: {back:.1f} s")  # noqa: T201
    assert len(system.jobs(ACCOUNTS["ben"])) == 1
    await ben.stop()
    until(lambda: system.jobs(ACCOUNTS["ben"]) == [], system.logs)


async def test_a_rolling_restart_under_load_disturbs_no_session(system: Installation, hub: Hub) -> None:
    ada, late = User(hub, "ada", "before"), [User(hub, "ben", f"during-{number}") for number in range(3)]
    await ada.start()
    await ada.until_ready()
    for user, service in zip([*late, None], [*SERVICES, "hub"], strict=True):
        if user is not None:
            await user.start()
        recreate = ["up", "--detach", "--no-deps", "--force-recreate", service]
        await asyncio.to_thread(system.engine.compose, *recreate)
        await asyncio.to_thread(system.until_healthy, OURS)
        await ada.until_server_answers()
    for user in late:
        await user.until_ready()
    assert (len(system.jobs(ACCOUNTS["ada"])), len(system.jobs(ACCOUNTS["ben"]))) == (1, len(late))
    for user in (ada, *late):
        await user.stop()
    until(lambda: not [*system.jobs(ACCOUNTS["ada"]), *system.jobs(ACCOUNTS["ben"])], system.logs)
    ended = json.loads(system.operator("sessions", "--json"))
    assert {each["outcome"] for each in ended} == {"stopped"}
