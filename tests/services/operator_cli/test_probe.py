"""The probe against a scripted hub: what it asks, and that nothing wrong goes by unsaid."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import msgspec
import pytest

from schemas.base import SystemName
from services._runtime.configuration import ConfigurationError
from services._runtime.errors import TransientError
from services._runtime.settings import Configuration, load
from services._runtime.systems import DirectReach, Emulated, Partition
from services.operator_cli.check import Result, check_hub, report, way_to
from services.operator_cli.probe import Hub, Phase, Report, Way, places, probe, server_path
from services.operator_cli.run import start_server
from tests.services.operator_cli.scripted_hub import READY, WHERE, ScriptedHub, scripted_hub
from tests.support.catalogue import system
from tests.support.running import ROOT

OPTIONS = {"system": "demo-hpc", "account": "ada1", "project": "ztrain", "partition": "batch", "runtime_minutes": 10}
WAY = Way(via="127.30.0.2", nodes=["127.30.0.11", "127.30.0.12"])
DEMO = SystemName("demo-hpc")


@pytest.fixture
async def scripted() -> AsyncIterator[ScriptedHub]:
    async with scripted_hub() as hub:
        yield hub


async def probed(scripted: ScriptedHub, user: str = "ada", way: Way = WAY) -> Report:
    async with aiohttp.ClientSession() as http:
        return await probe(Hub(scripted.url, "secret", http), user, OPTIONS, way, lambda line: None)


async def test_a_server_that_does_all_it_should_has_no_problem(scripted: ScriptedHub) -> None:
    found = await probed(scripted)
    assert found.problems == []
    assert [phase.name for phase in found.phases] == [
        *("accepted", "The job runs.", "in the hub", "kernel", "code ran", "stopped")
    ]
    assert found.phases[-2].detail == "on 127.30.0.11, reached only from 127.30.0.2"
    assert scripted.options == OPTIONS
    assert scripted.seen == ["POST ada", "POST ada", "DELETE ada"]
    assert found.server.startswith("check-")


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"start": (400, {"message": "partition: there is no devel2"})}, "answered 400: partition: there is no devel2"),
        ({"progress": [{"message": "The quota is used up.", "failed": True}]}, "the start failed: The quota is used"),
        ({"progress": READY[:1]}, "ended before it was ready"),
        ({"printed": json.dumps(WHERE | {"sum": 41})}, "the kernel computed 6 * 7 = 41"),
        ({"printed": json.dumps(WHERE | {"peers": ["127.0.0.1"]})}, "not only through the login node 127.30.0.2"),
        ({"printed": json.dumps(WHERE | {"peers": []})}, "not only through the login node 127.30.0.2"),
        ({"printed": json.dumps(WHERE | {"listening": ["127.0.0.1"]})}, "not only on compute nodes"),
        ({"printed": "no JSON"}, "Expecting value"),
        ({"printed": "{}"}, "'sum'"),
        ({"kernel_error": "no such file"}, "the kernel failed: OSError: no such file"),
        ({"stop": (500, {"message": "proxy error"})}, "not stopped: DELETE"),
    ],
)
async def test_whatever_is_wrong_is_a_problem_and_the_server_is_stopped_all_the_same(
    scripted: ScriptedHub, changes: dict[str, Any], problem: str
) -> None:
    for name, value in changes.items():
        setattr(scripted, name, value)
    found = await probed(scripted)
    assert len(found.problems) == 1
    assert problem in found.problems[0]
    assert ("DELETE ada" in scripted.seen) == ("start" not in changes)


async def test_where_the_way_is_not_known_it_is_not_judged(scripted: ScriptedHub) -> None:
    scripted.printed = json.dumps(WHERE | {"peers": ["10.0.0.1", "10.0.0.2"], "listening": ["10.1.0.1"]})
    assert (await probed(scripted, way=Way())).problems == []


async def test_a_hub_that_is_not_there_is_a_problem_not_a_crash() -> None:
    nobody = ScriptedHub()
    nobody.url = "http://127.0.0.1:1/"
    found = await probed(nobody)
    assert len(found.problems) == 1
    assert "127.0.0.1:1" in found.problems[0]


@pytest.mark.parametrize("user", ["../admin", "a/b", "ада", "x?y#z", "user name", "%2e%2e"])
async def test_hostile_names_stay_in_their_place(scripted: ScriptedHub, user: str) -> None:
    assert (await probed(scripted, user)).problems == []
    assert set(scripted.seen) == {f"POST {user}", f"DELETE {user}"}


def test_the_default_server_has_a_path_of_its_own() -> None:
    assert server_path("ada", "") == "hub/api/users/ada/server"
    assert server_path("ada", "lab") == "hub/api/users/ada/servers/lab"


def test_one_place_per_system_with_what_the_user_may_use_there() -> None:
    accounts = [
        {"name": "ada1", "projects": {"ztrain": ["devel"], "other": []}},
        {"name": "ada2", "projects": {"x": []}},
    ]
    user = {"name": "ada", "systems": {"demo-hpc": {"accounts": accounts}, "unknown": {"accounts": accounts}}}
    assert places(user, {DEMO: system()}) == {"demo-hpc": {**OPTIONS, "partition": "devel"}}
    assert places({"name": "eve"}, {DEMO: system()}) == {}


@pytest.mark.parametrize(("least", "most", "minutes"), [(60, 86_400, 10), (60, 300, 5), (3_601, 86_400, 61)])
def test_the_runtime_asked_for_is_one_the_partition_allows(least: int, most: int, minutes: int) -> None:
    partition = Partition(min_runtime_seconds=least, max_runtime_seconds=most, default_runtime_seconds=most)
    here = msgspec.structs.replace(system(), partitions={"only": partition})
    user = {"systems": {"demo-hpc": {"accounts": [{"name": "a", "projects": {"p": []}}]}}}
    assert places(user, {DEMO: here})["demo-hpc"]["runtime_minutes"] == minutes


def test_the_way_is_known_where_the_nodes_are_emulated() -> None:
    demo = load(ROOT / "farlab.toml").systems[DEMO]
    assert way_to(demo) == Way(via="127.30.0.2", nodes=["127.30.0.11", "127.30.0.12", "127.30.0.13", "127.30.0.14"])
    assert way_to(msgspec.structs.replace(demo, emulated=None)) == Way()
    direct = msgspec.structs.replace(
        demo,
        reach=DirectReach(networks=["127.30.0.0/24"]),
        emulated=Emulated(login_node="127.30.0.2", compute_nodes=["127.30.0.11"]),
    )
    assert way_to(direct) == Way(nodes=["127.30.0.11"])


def test_the_report_says_all_and_its_exit_code_is_the_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    good = Report(system="one", partition="batch", user="ada", server="s", phases=[Phase(name="kernel", seconds=1.5)])
    bad = Report(system="two", partition="batch", user="ada", server="s", problems=["no [bold]kernel[/bold]"])
    assert report(Result(systems=[good], seconds=2.0), as_json=False) == 0
    printed = capsys.readouterr().out
    assert "all is well: 1 system in 2.0 s" in printed
    assert "1.50 s" in printed
    result = Result(systems=[good, bad], problems=["vault entry x"])
    assert report(result, as_json=False) == 1
    printed = capsys.readouterr().out
    assert "PROBLEM: two: no [bold]kernel[/bold]" in printed
    assert "PROBLEM: vault entry x" in printed
    assert "2 problems: 2 systems" in printed
    assert report(result, as_json=True) == 1
    assert json.loads(capsys.readouterr().out)["ok"] is False


@pytest.mark.parametrize(
    ("user", "only", "said"),
    [("", "juwels", "--system juwels: there is no such system; there are: demo-hpc"), ("eve", "", "--user eve: not a")],
)
async def test_what_is_not_configured_is_not_probed(user: str, only: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        await check_hub(load(ROOT / "farlab.toml"), "http://127.0.0.1:1", "t", user, only, as_json=True)


async def test_a_check_without_a_broker_still_probes_and_says_what_it_could_not_look_for(
    scripted: ScriptedHub, capsys: pytest.CaptureFixture[str]
) -> None:
    configuration = load(ROOT / "farlab.toml")
    nobody = msgspec.structs.replace(configuration.shared.nats, servers=["nats://127.0.0.1:1"], connect_seconds=0.1)
    shared = msgspec.structs.replace(configuration.shared, nats=nobody)
    here: Configuration = msgspec.structs.replace(configuration, shared=shared)
    assert await check_hub(here, scripted.url, "secret", "ben", "", as_json=True) == 1
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [each["problems"] for each in result["systems"]] == [[], []]
    assert result["problems"][0].startswith("what is left could not be looked for: no NATS server answers")


async def test_a_start_that_is_refused_has_the_hubs_words(
    scripted: ScriptedHub, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await start_server(scripted.url, "secret", "ada", "lab", dict(OPTIONS)) == 0
    assert "farlab timeline ada/lab" in capsys.readouterr().out
    scripted.start = (400, {"message": "account: you have no ada9"})
    with pytest.raises(ConfigurationError, match=r"not started: .* answered 400: account: you have no ada9"):
        await start_server(scripted.url, "secret", "ada", "lab", dict(OPTIONS))
    scripted.start = (503, {"message": "too many starts"})
    with pytest.raises(TransientError, match=r"not started: .* answered 503: too many starts"):
        await start_server(scripted.url, "secret", "ada", "lab", dict(OPTIONS))
