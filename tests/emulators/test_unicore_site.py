"""The emulated site through the client library that others wrote, and what a test may ask it to break."""

from __future__ import annotations

import asyncio
import os
import signal
import ssl
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
from aiohttp import web
from cryptography import x509
from pyunicore.aio import client as unicore
from pyunicore.credentials import UsernamePassword

from tests.emulators.calls import INERT, SLEEP, client, delegated, status, unicore_site
from tests.support.site import ADA, ISSUER


async def test_the_real_client_library_runs_a_job_and_reads_its_output(tmp_path: Path) -> None:
    async with unicore_site(tmp_path, tls=False) as site:
        transport = unicore.Transport(UsernamePassword("ada1", "secret-of-ada"))
        api = unicore.Client(transport, site.base_url)
        description = {"Executable": "/bin/echo", "Arguments": ["hello"], "Resources": {"Queue": "batch"}}
        job = await api.new_job(description)
        await job.poll(timeout=20)
        work = await job.working_dir
        stdout = await work.stat("stdout")
        async with stdout.raw() as answer:
            assert await answer.aread() == b"hello\n"


async def test_a_job_with_client_stage_in_is_inert_until_started(tmp_path: Path) -> None:
    async with unicore_site(tmp_path) as site, client(site, tmp_path) as http:
        job = (await http.post("/jobs", json=INERT)).headers["Location"]
        assert (await http.get(job)).json()["status"] == "READY"
        work = (await http.get(job)).json()["_links"]["workingDirectory"]["href"]
        put = await http.put(
            f"{work}/files/secret.json", content=b"{}", headers={"Content-Type": "application/octet-stream"}
        )
        assert put.status_code == 204
        file = site.store.working_directory(next(iter(site.store.jobs.values()))) / "secret.json"
        assert file.stat().st_mode & 0o777 == 0o600
        await http.post(f"{job}/actions/start", json={})
        await status(http, job, "RUNNING")
        await http.post(f"{job}/actions/start", json={})
        await http.post(f"{job}/actions/abort", json={})
        assert "aborted" in (await status(http, job, "FAILED"))["statusMessage"]
        assert (await http.delete(job)).status_code == 204
        assert (await http.get(job)).status_code == 404
        assert not file.exists()


async def test_jobs_are_found_by_tag_page_by_page(tmp_path: Path) -> None:
    async with unicore_site(tmp_path, page_size=2) as site, client(site, tmp_path) as http:
        for number in range(5):
            await http.post("/jobs", json=SLEEP | {"haveClientStageIn": "true", "Tags": ["one", f"s{number}"]})
        page = (await http.get("/jobs", params={"tags": "one"})).json()
        found = list(page["jobs"])
        while "next" in page["_links"]:
            page = (await http.get(page["_links"]["next"]["href"])).json()
            found += page["jobs"]
        assert len(set(found)) == 5
        assert len((await http.get("/jobs", params={"tags": "one,s3"})).json()["jobs"]) == 1


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"Authorization": "Basic bm9ib2R5OndvcmQ="}, 403),
        ({"Authorization": "Bearer nonsense"}, 200),
        ({"Authorization": ""}, 200),
        ({"X-UNICORE-User-Preferences": "uid:root"}, 403),
        ({"X-UNICORE-User-Preferences": "uid:ada2,group:ztrain"}, 200),
        ({"X-UNICORE-SecuritySession": "never-opened"}, 432),
    ],
)
async def test_who_may_not_is_refused(tmp_path: Path, headers: dict[str, str], expected: int) -> None:
    async with unicore_site(tmp_path) as site, client(site, tmp_path, **headers) as http:
        assert (await http.get("")).status_code == expected


async def test_a_token_of_another_issuer_is_refused_and_one_that_does_not_delegate_is_nobodys(tmp_path: Path) -> None:
    async with unicore_site(tmp_path) as site:
        async with client(site, tmp_path, Authorization=delegated(tmp_path, issuer="CN=Mallory")) as http:
            answer = await http.get("")
            assert (answer.status_code, answer.content) == (403, b"")
        async with client(site, tmp_path, Authorization=delegated(tmp_path, etd=False)) as http:
            assert (await http.get("")).json()["client"]["role"]["selected"] == "anonymous"
            assert (await http.post("/jobs", json=INERT)).status_code == 403


async def test_nobody_sees_the_jobs_of_others(tmp_path: Path) -> None:
    async with unicore_site(tmp_path) as site, client(site, tmp_path) as ada:
        job = (await ada.post("/jobs", json=INERT)).headers["Location"]
        async with client(site, tmp_path, Authorization=delegated(tmp_path, "CN=Ben")) as ben:
            assert (await ben.get(job)).status_code == 403
            assert (await ben.get("/jobs")).json()["jobs"] == []


async def test_files_are_read_in_parts_and_never_outside_the_job(tmp_path: Path) -> None:
    async with unicore_site(tmp_path) as site, client(site, tmp_path) as http:
        job = (await http.post("/jobs", json=INERT)).headers["Location"]
        files = (await http.get(job)).json()["_links"]["workingDirectory"]["href"] + "/files"
        raw = {"Accept": "application/octet-stream"}
        await http.put(f"{files}/log", content=b"0123456789")
        part = await http.get(f"{files}/log", headers=raw | {"Range": "bytes=4-6"})
        assert (part.status_code, part.content) == (206, b"456")
        assert (await http.get(f"{files}/log", headers=raw | {"Range": "bytes=10-20"})).content == b""
        assert (await http.get(f"{files}/none", headers=raw)).status_code == 404
        assert (await http.get(f"{files}/%2e%2e/job.json", headers=raw)).status_code in (403, 404)
        assert list((await http.get(files)).json()["content"]) == ["/log"]


async def test_limits_of_a_queue_hold_and_time_runs_out(tmp_path: Path) -> None:
    async with unicore_site(tmp_path) as site, client(site, tmp_path) as http:
        for resources in ({"Queue": "none"}, {"Queue": "devel", "Nodes": 2}, {"Queue": "devel", "Runtime": "1d"}):
            job = (await http.post("/jobs", json=SLEEP | {"Resources": resources})).headers["Location"]
            assert (await status(http, job, "FAILED"))["statusMessage"]
        job = (await http.post("/jobs", json=SLEEP | {"Resources": {"Runtime": "1"}})).headers["Location"]
        ended = await status(http, job, "FAILED", "SUCCESSFUL")
        assert "no exit code file" in ended["statusMessage"]
        assert "exitCode" not in ended


async def test_notifications_are_signed_and_sent_once(tmp_path: Path) -> None:
    got: asyncio.Queue[tuple[str, dict[str, Any]]] = asyncio.Queue()

    async def receive(request: web.Request) -> web.Response:
        await got.put((request.headers["Authorization"], await request.json()))
        return web.Response()

    app = web.Application()
    app.router.add_post("/n", receive)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}/n"
    async with unicore_site(tmp_path) as site, client(site, tmp_path) as http:
        description = {"Executable": "/bin/true", "NotificationSettings": {"URL": url, "bssStatus": ["CONFIGURING"]}}
        await http.post("/jobs", json=description)
        async with asyncio.timeout(20):
            bodies = [await got.get() for _ in range(3)]
        assert [body.get("bssStatus") or body["status"] for _, body in bodies] == [
            "CONFIGURING",
            "RUNNING",
            "SUCCESSFUL",
        ]
        key = x509.load_pem_x509_certificate((await http.get("/certificate")).content).public_key()
        claims = jwt.decode(bodies[0][0].split()[1], key, algorithms=["ES256"])  # type: ignore[arg-type]
        assert (claims["iss"], claims["sub"]) == (site.server_dn, ADA)
    await runner.cleanup()


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("error500", 500), ("unauthorised", 401), ("too-many-requests", 429), ("submission-disabled", 503)],
)
async def test_faults_are_shown_as_often_as_asked(tmp_path: Path, kind: str, expected: int) -> None:
    async with unicore_site(tmp_path) as site, client(site, tmp_path) as http:
        await http.post(f"{site.origin}/emulator/faults", json={"kind": kind, "times": 2})
        assert [(await http.get("")).status_code for _ in range(3)] == [expected, expected, 200]


async def test_a_lost_answer_leaves_the_job_behind(tmp_path: Path) -> None:
    async with unicore_site(tmp_path) as site, client(site, tmp_path) as http:
        await http.post(f"{site.origin}/emulator/faults", json={"kind": "drop-after", "method": "POST"})
        with pytest.raises(httpx.TransportError):
            await http.post("/jobs", json=INERT)
        assert len(site.store.jobs) == 1


async def test_a_killed_site_takes_its_jobs_along_and_says_so_at_the_next_start(tmp_path: Path) -> None:
    async with unicore_site(tmp_path):
        pass
    configuration = tmp_path / "site.toml"
    configuration.write_text(
        f'folder = "{tmp_path}/site"\nqueue_seconds = 0.0\n[[users]]\ndn = "{ADA}"\nuids = ["ada1"]\n'
        f'[trusted]\n"{ISSUER}" = "{tmp_path}/delegation.pub.pem"\n'
    )
    with subprocess.Popen(
        [sys.executable, "-m", "emulators.unicore_site", "--config", str(configuration)], stdout=subprocess.DEVNULL
    ) as process:
        async with asyncio.timeout(20):
            while not (tmp_path / "site" / "ports.json").exists():
                await asyncio.sleep(0.02)
        base = httpx.URL((await asyncio.to_thread((tmp_path / "site" / "ports.json").read_text)).split('"')[3])
        context = ssl.create_default_context(cafile=str(tmp_path / "site" / "tls" / "ca.pem"))
        headers = {"Authorization": delegated(tmp_path), "Accept": "application/json"}
        async with httpx.AsyncClient(base_url=base, headers=headers, verify=context) as http:
            job = (await http.post("/jobs", json=SLEEP)).headers["Location"]
            await status(http, job, "RUNNING")
            pid = (await http.get(base.copy_with(path="/emulator/jobs"))).json()["jobs"][0]["pid"]
        process.send_signal(signal.SIGKILL)
        process.wait(10)
    async with asyncio.timeout(20):
        while _alive(pid):
            await asyncio.sleep(0.02)
    async with unicore_site(tmp_path) as site:
        assert [each.status for each in site.store.jobs.values()] == ["FAILED"]
        assert "lost" in next(iter(site.store.jobs.values())).status_message


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
