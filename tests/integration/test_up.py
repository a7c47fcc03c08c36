"""`farlab up` as a newcomer runs it: the whole system, its own check, a killed hub, Ctrl-C and a second start."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import ssl
import subprocess
import sys
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from services.operator_cli.monitoring.alerts import ALERTS
from services.operator_cli.monitoring.dashboard import PANELS
from services.operator_cli.probe import Hub
from services.operator_cli.up import left_over
from tests.support.running import ROOT, RunningFarlab, running_farlab

pytestmark = pytest.mark.timeout(300)
OPTIONS = {
    "system": "demo-hpc",
    "account": "lovelace1",
    "project": "ztrain",
    "partition": "batch",
    "runtime_minutes": 10,
}


def test_the_check_starts_uses_and_stops_everything(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "services.operator_cli", "up", "--check", "--json"]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert report["ok"]
    assert [system["system"] for system in report["systems"]] == ["demo-hpc", "demo-cloud"]
    assert any("reached only from 127.30.0.2" in phase["detail"] for phase in report["systems"][0]["phases"])
    assert list(left_over(tmp_path)) == []


async def _jobs(farlab: RunningFarlab, http: aiohttp.ClientSession) -> list[dict[str, Any]]:
    told = json.loads((farlab.state / "sites" / "demo-hpc" / "site" / "ports.json").read_text())
    context = ssl.create_default_context(cafile=told["ca"])
    async with http.get(f"{told['origin']}/emulator/jobs", ssl=context) as answer:
        jobs: list[dict[str, Any]] = (await answer.json())["jobs"]
    return jobs


async def _until(hub: Hub, wanted: dict[str, bool], seconds: float = 90) -> None:
    """Until each of ada's servers is ready, or has been taken off, as wanted."""
    async with asyncio.timeout(seconds):
        while True:
            servers = (await hub.call("GET", "hub/api/users/ada")).get("servers") or {}
            if all((name in servers and servers[name]["ready"]) == ready for name, ready in wanted.items()):
                return
            await asyncio.sleep(0.1)


async def test_a_killed_hub_costs_nobody_a_server_and_makes_no_second_job(tmp_path: Path) -> None:
    running, queued = ["runs-1", "runs-2"], ["waits-1", "waits-2"]
    with running_farlab(tmp_path, queue_seconds=8.0) as farlab:
        async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as http:
            hub = Hub(farlab.url, farlab.token, http)
            for name in running:
                await hub.call("POST", f"hub/api/users/ada/servers/{name}", {"user_options": OPTIONS}, (201, 202))
            await _until(hub, dict.fromkeys(running, True))
            for name in queued:
                await hub.call("POST", f"hub/api/users/ada/servers/{name}", {"user_options": OPTIONS}, (201, 202))
            async with asyncio.timeout(30):
                while len(before := await _jobs(farlab, http)) < 4:
                    await asyncio.sleep(0.05)
            os.kill(farlab.pid_of("-m jupyterhub -f"), signal.SIGKILL)
            async with asyncio.timeout(60):
                while not await _answers(http, farlab.url):
                    await asyncio.sleep(0.1)
            await _until(hub, dict.fromkeys(running + queued, True))
            after = await _jobs(farlab, http)
            assert {job["id"] for job in after} == {job["id"] for job in before}
            for name in running + queued:
                assert (await hub.call("GET", f"user/ada/{name}/api/status"))["kernels"] == 0
            for name in running + queued:
                await hub.call("DELETE", f"hub/api/users/ada/servers/{name}", None, (202, 204))
            await _until(hub, dict.fromkeys(running + queued, False))
            async with asyncio.timeout(30):
                while await _jobs(farlab, http):
                    await asyncio.sleep(0.1)
        rows = await asyncio.to_thread(farlab.farlab, "sessions")
        assert sorted(row["server_name"] for row in rows) == running + queued
        assert {row["outcome"] for row in rows} == {"stopped"}


async def _answers(http: aiohttp.ClientSession, url: str) -> bool:
    try:
        async with http.get(f"{url}hub/health") as answer:
            return answer.status == 200
    except aiohttp.ClientError:
        return False


async def test_ctrl_c_leaves_no_process_and_a_second_start_finds_its_sessions(tmp_path: Path) -> None:
    with running_farlab(tmp_path) as farlab:
        async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as http:
            hub = Hub(farlab.url, farlab.token, http)
            await hub.call("POST", "hub/api/users/ada/servers/one", {"user_options": OPTIONS}, (201, 202))
            await _until(hub, {"one": True})
        said = await asyncio.to_thread(farlab.stop, signal.SIGINT)
        assert "Stopped." in said
        assert "Traceback" not in said
        assert list(left_over(farlab.state)) == []

        await asyncio.to_thread(farlab.start)
        async with asyncio.timeout(60):
            while (rows := await asyncio.to_thread(farlab.farlab, "sessions"))[0]["state"] != "ended":
                await asyncio.sleep(0.2)
        assert [(row["server_name"], row["user"]) for row in rows] == [("one", "ada")]
        assert rows[0]["outcome"] in ("failed", "lost")
        assert "node was lost" in rows[0]["reason"]


async def test_an_operator_starts_reads_and_stops_from_the_command_line(tmp_path: Path) -> None:
    with running_farlab(tmp_path) as farlab:
        start = ["start", "ben", "--system", "demo-hpc", "--account", "johnson1", "--project", "ztrain"]
        start += ["--partition", "devel", "--runtime", "10", "--hub", farlab.url]
        start += ["--token-file", str(farlab.state / "operator.token")]
        assert "started for ben" in await asyncio.to_thread(_farlab, farlab, *start)
        async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as http:
            hub = Hub(farlab.url, farlab.token, http)
            async with asyncio.timeout(90):
                while (
                    not ((await hub.call("GET", "hub/api/users/ben")).get("servers") or {"": {}})
                    .get("", {})
                    .get("ready")
                ):
                    await asyncio.sleep(0.1)
        told = await asyncio.to_thread(_farlab, farlab, "events", "--type", "server-ready")
        assert told.count("server-ready") == 1
        await _waits_and_goes_on(farlab)
        async with asyncio.timeout(60):
            while (steps := await asyncio.to_thread(farlab.farlab, "timeline", "ben/"))[-1]["state"] != "ended":
                await asyncio.sleep(0.2)
        assert "maintenance at noon" in steps[-1]["details"]["reason"]
        assert await asyncio.to_thread(farlab.farlab, "replay", "--decide") == {"sessions": 2, "differences": {}}
        said = await asyncio.to_thread(farlab.farlab, "explain", "ben/")
        assert "was stopped: Stopped by operator" in said["summary"]
        await _asked_metrics_are_exported(farlab)
        figures = await asyncio.to_thread(farlab.farlab, "stats")
        assert (figures["sessions"], figures["ready"]) == (2, 2)
        await asyncio.to_thread(_farlab, farlab, "export", "ben/", "--out", str(tmp_path / "ben.farlab.jsonl"))
        elsewhere = ("--bundle", str(tmp_path / "ben.farlab.jsonl"))
        again = await asyncio.to_thread(farlab.farlab, "timeline", "01", *elsewhere)
        assert [step["id"] for step in again] == [step["id"] for step in steps]
        assert "johnson" not in (tmp_path / "ben.farlab.jsonl").read_text()
        refused = await asyncio.to_thread(_farlab, farlab, *[word.replace("devel", "nosuch") for word in start], code=2)
        assert "partition" in refused
        assert "Traceback" not in refused


async def _asked_metrics_are_exported(farlab: RunningFarlab) -> None:
    """Every metric that an alert or a panel asks for, services really export, after a session they served."""
    exported: set[str] = set()
    async with aiohttp.ClientSession() as http:
        for service in ("accounts", "hpc_launcher", "tunneler"):
            port = int((farlab.state / f"{service}.port").read_text())
            async with http.get(f"http://127.0.0.1:{port}/metrics") as answer:
                families = list(text_string_to_metric_families(await answer.text()))
            exported |= {sample.name for family in families for sample in family.samples}
            exported |= {f"{family.name}_total" for family in families if family.type == "counter"}
            behind = {
                sample.labels["stream"]: sample.value
                for family in families
                for sample in family.samples
                if sample.name == "farlab_consumer_pending_messages"
            }
            assert behind == {"SESSIONS": 0.0, "ACTS": 0.0}
    queries = [*(alert.expression for alert in ALERTS), *(panel.query for panel in PANELS)]
    assert {name for query in queries for name in re.findall(r"\b((?:farlab|process)_\w+)", query)} <= exported


async def _waits_and_goes_on(farlab: RunningFarlab) -> None:
    """With room for one, ada waits behind ben, is told so on her page, and gets in when ben is stopped."""
    limit = ("quota", "set", "default", "demo-hpc", "sessions", "1", "--reason", "half of it is down", "--yes")
    assert "is asked" in await asyncio.to_thread(_farlab, farlab, *limit)
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as http:
        hub = Hub(farlab.url, farlab.token, http)
        async with asyncio.timeout(60):
            while (await asyncio.to_thread(farlab.farlab, "quota", "show"))[0]["limit"] != 1:
                await asyncio.sleep(0.1)
        await hub.call("POST", "hub/api/users/ada/servers/", {"user_options": OPTIONS}, (201, 202))
        seen: list[str] = []
        async with (
            asyncio.timeout(120),
            http.get(
                f"{farlab.url}hub/api/users/ada/server/progress", headers={"Authorization": f"token {farlab.token}"}
            ) as page,
        ):
            async for line in page.content:
                if line.startswith(b"data:"):
                    seen.append(json.loads(line[5:])["message"])
                    if len(seen) == SAID_WHILE_WAITING:
                        stop = ("stop", "ben/", "--reason", "maintenance at noon")
                        assert "its stop is requested" in await asyncio.to_thread(_farlab, farlab, *stop)
        assert any(each.startswith("Waiting for its turn, place 1: All users together use 1 of 1") for each in seen)
        assert "In use on Demo HPC: 1 of 1 sessions." in seen
        assert "Account, limits and quota are checked." in seen
        await _until(hub, {"": True})
        await hub.call("DELETE", "hub/api/users/ada/server", None, (202, 204))
        await _until(hub, {"": False})


SAID_WHILE_WAITING = 4
"""Server requested, asked for, waiting, and what is in use."""


def _farlab(farlab: RunningFarlab, *words: str, code: int = 0) -> str:
    environment = {**os.environ, "FARLAB_CONFIG": str(farlab.state / "farlab.toml"), "COLUMNS": "300"}
    command = [sys.executable, "-m", "services.operator_cli", *words]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr
