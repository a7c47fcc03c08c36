"""A job's way at the emulated site: staged in, queued, run on a node, ended; over restarts of the site, too."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import httpx
import pytest

from emulators.processes import started
from emulators.unicore_site.configuration import Queue
from emulators.unicore_site.site import UnicoreSite
from tests.emulators.calls import (
    INERT,
    SLEEP,
    client,
    content,
    content_once_there,
    script,
    status,
    submit,
    unicore_site,
)

ESCAPED = "setsid sh -c 'echo $$ >escaped; exec sleep 300' & wait"


def statuses(job: dict[str, Any]) -> list[str]:
    return [line.rpartition(" to ")[2].rstrip(".") for line in job["log"] if "Status set to" in line]


async def processes(site: UnicoreSite, http: httpx.AsyncClient) -> list[int]:
    jobs = (await http.get(f"{site.origin}/emulator/jobs")).json()["jobs"]
    return [job["pid"] for job in jobs]


async def test_a_job_goes_through_all_of_its_states(tmp_path: Path) -> None:
    imports = [
        {"From": "inline://dummy", "To": "data/one", "Data": "first"},
        {"To": "data/one", "Data": ["second", "third"], "Mode": "append", "Permissions": "rwxr-----"},
        {"To": "data/one", "Data": "never", "Mode": "nooverwrite"},
        {"From": "https://elsewhere/x", "To": "x", "FailOnError": "false"},
    ]
    async with unicore_site(tmp_path, staging_seconds=0.05) as site, client(site, tmp_path) as http:
        job = await submit(http, script("cat data/one; umask; exit 3", Imports=imports, Umask="027"))
        assert (await http.get(job)).json()["status"] == "STAGINGIN"
        ended = await status(http, job, "SUCCESSFUL", "FAILED")
        assert statuses(ended) == ["STAGINGIN", "READY", "QUEUED", "RUNNING", "STAGINGOUT"]
        assert (ended["status"], ended["exitCode"], ended["statusMessage"].partition(" More")[0]) == (
            "FAILED",
            "3",
            "User application exited with non-zero exit code: <3>.",
        )
        assert await content(http, job, "stdout") == "firstsecond\nthird\n0027\n"
        file = site.store.working_directory(site.store.jobs[job.rpartition("/")[2]]) / "data" / "one"
        assert file.stat().st_mode & 0o777 == 0o740


@pytest.mark.parametrize(
    "bad", [{"To": "../job.json"}, {"To": "/a/../../b"}, {"From": "https://x/y", "To": "y"}, {"To": "."}]
)
async def test_a_job_whose_files_cannot_be_staged_in_fails(tmp_path: Path, bad: dict[str, str]) -> None:
    async with unicore_site(tmp_path) as site, client(site, tmp_path) as http:
        job = await submit(http, SLEEP | {"Imports": [bad]})
        assert "Staging in failed" in (await status(http, job, "FAILED"))["statusMessage"]
        assert json.loads((tmp_path / "site" / "jobs" / job.rpartition("/")[2] / "job.json").read_text())


async def test_a_job_may_be_told_to_start_while_it_is_still_staged_in(tmp_path: Path) -> None:
    async with unicore_site(tmp_path, staging_seconds=0.2) as site, client(site, tmp_path) as http:
        job = await submit(http, INERT | {"Imports": [{"To": "a", "Data": "a"}]})
        await http.post(f"{job}/actions/start", json={})
        assert (await http.get(job)).json()["status"] == "STAGINGIN"
        await status(http, job, "RUNNING")


async def test_a_job_finds_a_minimal_environment_and_its_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMULATORS_OWN_SECRET", "canary")
    nodes = ["127.30.0.11", "127.30.0.12"]
    async with (
        unicore_site(tmp_path, compute_nodes=nodes, path=["/opt/modules"]) as site,
        client(site, tmp_path, **{"X-UNICORE-User-Preferences": "uid:ada2,group:ztrain"}) as http,
    ):
        wanted = script("env; stat -c '%a %n' $HOME .", Environment={"MINE": 1}, Name="mine")
        wanted["Resources"] = {"Queue": "batch", "Nodes": "2"}
        job = await submit(http, wanted)
        batch_id = (await status(http, job, "SUCCESSFUL"))["batchSystemID"]
        lines = (await content(http, job, "stdout")).splitlines()
        environment = dict(line.split("=", 1) for line in lines if "=" in line)
        home = str(tmp_path / "site" / "home" / "ada2")
        assert {key: environment[key] for key in environment if key not in ("PWD", "SHLVL", "_", "OLDPWD")} == {
            "PATH": "/opt/modules:/usr/local/bin:/usr/bin:/bin",
            "HOME": home,
            "USER": "ada2",
            "LOGNAME": "ada2",
            "LANG": "C.UTF-8",
            "MINE": "1",
            "SLURM_JOB_ID": batch_id,
            "SLURM_JOB_NAME": "mine",
            "SLURM_JOB_ACCOUNT": "ztrain",
            "SLURM_JOB_PARTITION": "batch",
            "SLURM_JOB_NODELIST": "127.30.0.11,127.30.0.12",
            "SLURM_JOB_NUM_NODES": "2",
            "SLURM_SUBMIT_DIR": environment["PWD"],
            "SLURMD_NODENAME": "127.30.0.11",
        }
        assert lines[-2:] == [f"700 {home}", "700 ."]


async def test_jobs_wait_in_order_for_a_full_queue_and_see_their_place(tmp_path: Path) -> None:
    queues = {"batch": Queue(nodes_at_once=1), "devel": Queue()}
    async with unicore_site(tmp_path, queue_seconds=0.0, queues=queues) as site, client(site, tmp_path) as http:
        first = await submit(http, SLEEP)
        await status(http, first, "RUNNING")
        others = [await submit(http, SLEEP) for _ in range(2)]
        async with asyncio.timeout(20):
            while sorted(job.place for job in site.store.jobs.values()) != [0, 1, 2]:
                await asyncio.sleep(0.01)
        details = [(await http.get(f"{job}/details")).json() for job in others]
        assert [(each["QueuePosition"], each["Reason"], each["JobState"]) for each in details] == [
            (1, "Resources", "PENDING"),
            (2, "Priority", "PENDING"),
        ]
        assert "place 2" in (await http.get(others[1])).json()["log"][-1]
        await status(http, await submit(http, SLEEP | {"Resources": {"Queue": "devel"}}), "RUNNING")
        await http.post(f"{others[0]}/actions/abort", json={})
        assert "QueuePosition" not in (await http.get(f"{others[0]}/details")).json()
        assert (await http.get(f"{others[1]}/details")).json()["QueuePosition"] == 1
        await http.delete(first)
        await status(http, others[1], "RUNNING")


@pytest.mark.parametrize("end", ["abort", "delete", "time limit", "exit"])
async def test_whatever_a_job_started_ends_with_it(tmp_path: Path, end: str) -> None:
    words = "setsid sh -c 'echo $$ >escaped; exec sleep 300' & while ! [ -s escaped ]; do sleep 0.01; done"
    wanted = script(words if end == "exit" else f"{words}; wait")
    if end == "time limit":
        wanted["Resources"] = {"Queue": "batch", "Runtime": "1"}
    async with unicore_site(tmp_path, kill_seconds=0.2) as site, client(site, tmp_path) as http:
        job = await submit(http, wanted)
        escaped = int(await content_once_there(http, job, "escaped"))
        if end == "abort":
            await http.post(f"{job}/actions/abort", json={})
        if end == "delete":
            assert (await http.delete(job)).status_code == 204
            assert list((tmp_path / "site" / "jobs").iterdir()) == []
        else:
            await status(http, job, "SUCCESSFUL" if end == "exit" else "FAILED")
            assert await processes(site, http) == [0]
        assert started(escaped) == ""


async def test_aborts_and_a_deletion_at_once_agree(tmp_path: Path) -> None:
    async with unicore_site(tmp_path, kill_seconds=0.3) as site, client(site, tmp_path) as http:
        job = await submit(http, script("trap '' TERM; echo on; while :; do sleep 0.05; done"))
        await content_once_there(http, job, "stdout")
        answers = await asyncio.gather(
            *[http.post(f"{job}/actions/abort", json={}) for _ in range(3)], http.delete(job)
        )
        assert [answer.status_code for answer in answers] == [204] * 4
        assert (await http.get(job)).status_code == 404
        assert site.store.jobs == {}


async def test_an_ended_job_stays_as_it_is_until_it_is_restarted(tmp_path: Path) -> None:
    async with unicore_site(tmp_path, queue_seconds=0.0) as site, client(site, tmp_path) as http:
        job = await submit(http, script("echo x >>times"))
        before = await status(http, job, "SUCCESSFUL")
        for action in ("abort", "start"):
            assert (await http.post(f"{job}/actions/{action}", json={})).status_code == 204
        assert (await http.get(job)).json() == before
        await http.post(f"{job}/actions/restart", json={})
        await http.post(f"{job}/actions/restart", json={})
        after = await status(http, job, "SUCCESSFUL")
        assert int(after["batchSystemID"]) == int(before["batchSystemID"]) + 1
        assert await content(http, job, "times") == "x\nx\n"


@pytest.mark.parametrize(
    ("more", "code", "words"),
    [
        ({"Executable": "/nowhere"}, "127", "/bin/bash: line 1: /nowhere: No such file or directory\n"),
        ({"Stdin": "missing"}, None, None),
        ({"Stdout": "../../stolen"}, None, None),
        ({"Environment": {"A=B": "x"}}, None, None),
    ],
)
async def test_what_cannot_be_run_fails(
    tmp_path: Path, more: dict[str, object], code: str | None, words: str | None
) -> None:
    async with unicore_site(tmp_path) as site, client(site, tmp_path) as http:
        job = await submit(http, script("true") | more)
        ended = await status(http, job, "FAILED")
        assert ended["statusMessage"]
        assert ended.get("exitCode") == code
        if words is not None:
            assert await content(http, job, "stderr") == words
        assert not (tmp_path / "site" / "jobs" / "stolen").exists()


async def test_who_waits_waits_again_after_a_restart_and_what_ran_is_lost(tmp_path: Path) -> None:
    queues = {"batch": Queue(nodes_at_once=1)}
    async with unicore_site(tmp_path, queues=queues) as site, client(site, tmp_path) as http:
        inert = await submit(http, INERT)
        runs = await submit(http, script(ESCAPED))
        await status(http, runs, "RUNNING")
        escaped = int(await content_once_there(http, runs, "escaped"))
        waits = await submit(http, script("echo at last"))
        (tmp_path / "site" / "jobs" / "half-made" / "work").mkdir(parents=True)
    assert started(escaped) == ""
    async with unicore_site(tmp_path, queues=queues) as site, client(site, tmp_path) as http:
        names = [job.rpartition("/")[2] for job in (inert, runs, waits)]
        assert sorted(each.name for each in (tmp_path / "site" / "jobs").iterdir()) == sorted(names)
        inert, runs, waits = (f"{site.base_url}/jobs/{name}" for name in names)
        lost = (await http.get(runs)).json()
        assert (lost["status"], "node was lost" in lost["statusMessage"]) == ("FAILED", True)
        assert (await http.get(inert)).json()["status"] == "READY"
        done = await status(http, waits, "SUCCESSFUL")
        assert int(done["batchSystemID"]) > int(lost["batchSystemID"])
        assert await content(http, waits, "stdout") == "at last\n"
        new = await submit(http, script("true"))
        assert int((await status(http, new, "SUCCESSFUL"))["batchSystemID"]) > int(done["batchSystemID"])


async def test_a_queue_that_is_no_more_fails_who_waited_in_it(tmp_path: Path) -> None:
    queues = {"old": Queue()}
    async with unicore_site(tmp_path, queues=queues, queue_seconds=60.0) as site, client(site, tmp_path) as http:
        job = (await submit(http, SLEEP | {"Resources": {"Queue": "old"}})).rpartition("/")[2]
    async with unicore_site(tmp_path, queue_seconds=0.0) as site, client(site, tmp_path) as http:
        assert "No such queue: old" in (await status(http, f"/jobs/{job}", "FAILED"))["statusMessage"]


async def test_twenty_jobs_end_together_when_the_site_does(tmp_path: Path) -> None:
    async with unicore_site(tmp_path, jobs_per_node=20, queue_seconds=0.0) as site, client(site, tmp_path) as http:
        jobs = [await submit(http, script("trap 'sleep 1; exit 0' TERM; sleep 300 & wait")) for _ in range(20)]
        for job in jobs:
            await status(http, job, "RUNNING")
        pids = await processes(site, http)
        loop = asyncio.get_running_loop()
        began = loop.time()
    assert loop.time() - began < 15
    assert [pid for pid in pids if started(pid)] == []
    assert len(set(pids)) == 20
    assert os.getpid() not in pids
