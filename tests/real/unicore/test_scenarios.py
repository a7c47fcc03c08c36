"""What Farlab relies on in UNICORE, played on UNICORE/X itself and on the stand-in: where they differ, this fails."""

from __future__ import annotations

import asyncio
import os
import ssl
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any
from urllib.parse import urlsplit

import msgspec
import pytest
from aiohttp import web

from emulators.identity_provider.configuration import Client, ProviderConfiguration
from emulators.identity_provider.provider import IdentityProvider
from schemas.base import SessionId, UserName
from services._launching.comparison import TaggedJob
from services._runtime.errors import PermanentError, TransientError
from services.hpc_launcher import unicore
from services.hpc_launcher.app import site_of
from services.hpc_launcher.notifications import verify
from services.hpc_launcher.ports import Configuring, Finished, Gone, Inert, Owner, Queued, Running, Unknown
from services.hpc_launcher.unicore_client import SESSION_HEADER
from services.tunneler.listening import PortRange
from services.tunneler.ports import Address, LostError, Target
from services.tunneler.stream_forward import StreamWays
from services.tunneler.unicore_forward import UnicoreSide
from tests.real.unicore.calls import (
    ENDED,
    OCTETS,
    OWNER,
    RAW,
    client,
    delegated,
    described,
    document,
    ended,
    port,
    prepared,
    status,
    submit,
    system_at,
    until,
)
from tests.real.unicore.sites import ADA, BEN, Site
from tests.support.identity_provider import CALLBACK, CLIENT_ID, CLIENT_SECRET, PEOPLE, Browser

pytestmark = pytest.mark.timeout(180)
BEN_OWNER = Owner(BEN, "ben1", "ztrain")


async def test_a_job_is_inert_found_by_its_tag_started_and_its_end_told(site: Site) -> None:
    async with port(site) as launcher:
        wanted = described("echo out; echo err >&2; exit 3")
        assert await launcher.find(wanted.marks, OWNER) == []
        job = await launcher.create(wanted, OWNER)
        assert await launcher.find(wanted.marks, OWNER) == [job]
        await launcher.stage(job, {"secret.json": b"secret"}, OWNER)
        assert isinstance(await launcher.report(job, OWNER), Inert | Queued)
        await launcher.start(job, OWNER)
        await launcher.start(job, OWNER)
        report = await ended(launcher, job)
        assert (report.succeeded, report.exit_code) == (False, 3)
        assert "non-zero exit code: <3>" in report.words
        assert "Exit code 3" in report.log
        sizes = await launcher.sizes(job, OWNER)
        assert (sizes["stdout"], sizes["stderr"], sizes["secret.json"]) == (4, 4, 6)
        await launcher.delete(job, OWNER)


async def test_what_is_gone_is_known_to_be_gone(site: Site) -> None:
    async with port(site) as launcher:
        job = await launcher.create(described(), OWNER)
        await launcher.delete(job, OWNER)
        assert await launcher.report(job, OWNER) == Gone()
        await launcher.delete(job, OWNER)
        await launcher.abort(job, OWNER)
        assert await launcher.sizes(job, OWNER) == {}
        with pytest.raises(PermanentError, match="job-gone"):
            await launcher.start(job, OWNER)
    async with client(site) as http:
        for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/actions/abort"), ("GET", "/details")):
            answer = await http.request(method, f"/jobs/{job}{path}", json={} if method == "POST" else None)
            assert (answer.status_code, answer.content) == (404, b"")
            assert SESSION_HEADER in answer.headers


async def test_a_start_that_comes_before_the_job_is_prepared_is_not_lost(site: Site) -> None:
    async with client(site) as http:
        job = await submit(http, document("echo done"))
        assert (await http.post(f"{job}/actions/start", json={})).status_code == 204
        assert (await status(http, job, *ENDED))["exitCode"] == "0"


async def test_a_job_without_that_wish_starts_by_itself(site: Site) -> None:
    async with client(site) as http:
        job = await submit(http, document("exit 7", haveClientStageIn="false"))
        assert (await status(http, job, *ENDED))["exitCode"] == "7"


async def test_an_ended_job_runs_again_when_told_to(site: Site) -> None:
    async with client(site) as http:
        job = await submit(http, document("echo x >> runs"))
        work = await prepared(http, job)
        for runs in (1, 2):
            await http.post(f"{job}/actions/{'start' if runs == 1 else 'restart'}", json={})

            async def ran(runs: int = runs) -> bool:
                return len((await http.get(f"{work}/files/runs", headers=RAW)).content) == 2 * runs

            await until(ran)
            await status(http, job, "SUCCESSFUL")


async def test_arguments_reach_the_program_as_a_shell_takes_them(site: Site) -> None:
    async with client(site) as http:
        job = await submit(http, document("printf '<%s>' \"$@\"", Arguments=["start.sh", "a b", "$HOME", "'c d'"]))
        work = await prepared(http, job)
        await http.post(f"{job}/actions/start", json={})
        await status(http, job, "SUCCESSFUL")
        home = os.environ["HOME"] if site.name == "real" else str(site.directory(job.rpartition("/")[2]).parents[2])
        said = (await http.get(f"{work}/files/stdout", headers=RAW)).text
        assert said.startswith("<a><b><")
        assert said.endswith("><c d>")
        assert "$HOME" not in said, home


async def test_an_aborted_job_has_failed_and_cannot_be_aborted_twice(site: Site) -> None:
    async with port(site) as launcher:
        job = await launcher.create(described("sleep 600"), OWNER)
        await launcher.start(job, OWNER)
        async with asyncio.timeout(30):
            while not isinstance(await launcher.report(job, OWNER), Running):
                await asyncio.sleep(0.05)
        await launcher.abort(job, OWNER)
        await launcher.abort(job, OWNER)
        report = await ended(launcher, job)
        assert (report.succeeded, report.exit_code, report.words) == (False, None, "Job aborted.")
        await launcher.delete(job, OWNER)


async def test_a_job_that_never_started_is_aborted_too(site: Site) -> None:
    async with port(site) as launcher:
        job = await launcher.create(described(), OWNER)
        await launcher.abort(job, OWNER)
        assert not (await ended(launcher, job)).succeeded


async def test_a_job_beyond_its_time_limit_is_ended(site: Site) -> None:
    async with port(site) as launcher:
        job = await launcher.create(described("sleep 600; echo never", runtime_seconds=2), OWNER)
        await launcher.start(job, OWNER)
        report = await ended(launcher, job)
        assert report.exit_code in (None, 124)
        assert (await launcher.sizes(job, OWNER))["stdout"] == 0


async def test_an_impossible_job_is_taken_and_fails_at_its_start(site: Site) -> None:
    async with port(site) as launcher:
        for wanted in (described(partition="nosuch"), described(partition="devel", runtime_seconds=999_999)):
            job = await launcher.create(wanted, OWNER)
            await launcher.start(job, OWNER)
            report = await ended(launcher, job)
            assert not report.succeeded
            assert report.words


async def test_what_is_no_description_is_a_fault_of_the_site(site: Site) -> None:
    async with client(site) as http:
        for body in (b"", b"{", b"[]"):
            answer = await http.post("/jobs", content=body, headers={"Content-Type": "application/json"})
            assert answer.status_code == 500
            assert "Could not submit job" in answer.json()["errorMessage"]


async def test_a_restart_of_the_server_keeps_jobs_that_wait_and_forgets_sessions(site: Site) -> None:
    async with port(site) as launcher, client(site) as http:
        wanted = described("exit 5")
        job = await launcher.create(wanted, OWNER)
        await launcher.stage(job, {"secret.json": b"secret"}, OWNER)
        session = (await http.get("")).headers[SESSION_HEADER]
        await prepared(http, f"{site.base_url}/jobs/{job}")
        await _on_disk(site)
        await site.restart()
        assert (await http.get("", headers={SESSION_HEADER: session})).status_code == 432
        assert await launcher.find(wanted.marks, OWNER) == [job]
        assert await launcher.report(job, OWNER) == Inert()
        assert await launcher.read(job, "secret.json", OWNER, offset=0, length=99) == b"secret"
        await launcher.start(job, OWNER)
        assert (await ended(launcher, job)).exit_code == 5


async def _on_disk(site: Site) -> None:
    """UNICORE/X writes the state of a job a moment after it shows it: a later job's directory tells that it has."""
    async with port(site) as launcher, client(site) as http:
        for _ in range(3):
            later = await launcher.create(described(), OWNER)
            await prepared(http, f"{site.base_url}/jobs/{later}")
            await launcher.delete(later, OWNER)


async def test_a_killed_server_may_forget_a_start_but_calls_nothing_running_that_is_not(site: Site) -> None:
    async with port(site) as launcher:
        job = await launcher.create(described("echo $$ > pid; sleep 600"), OWNER)
        await launcher.start(job, OWNER)
        pid_file = site.directory(job) / "pid"
        async with asyncio.timeout(30):
            while not pid_file.exists() or not pid_file.read_text().strip():
                await asyncio.sleep(0.05)
        pid = int(pid_file.read_text())
        await site.restart()
        assert not os.path.exists(f"/proc/{pid}")  # noqa: PTH110
        # What UNICORE/X did in its last tenths of a second is not on its disk: the job may be as before its start, be
        # submitted once more, or on a loaded machine be forgotten whole.
        seen: list[str] = []
        known = monotonic()
        until = known + 90
        while monotonic() < until:
            report = await launcher.report(job, OWNER)
            again = int(pid_file.read_text().strip() or pid)
            if not isinstance(report, Gone):
                known = monotonic()
            elif monotonic() > known + 10:
                break
            if isinstance(report, Running) and again != pid and os.path.exists(f"/proc/{again}"):  # noqa: PTH110
                break
            if isinstance(report, Inert) or (isinstance(report, Finished) and report.exit_code is None):
                break
            if (said := f"{report}, process {pid} then {again}") not in seen:
                seen.append(said)
            await asyncio.sleep(0.05)
        else:
            pytest.fail(f"it never settled: {seen}")
        await launcher.delete(job, OWNER)


async def test_staged_files_have_the_modes_asked_for(site: Site) -> None:
    async with client(site) as http:
        imports = [
            {"From": "inline://dummy", "To": "start.sh", "Data": "true"},
            {"From": "inline://dummy", "To": "run.sh", "Data": "true", "Permissions": "rwxr-x---"},
            {"From": "inline://dummy", "To": "lines", "Data": ["a", "b"]},
        ]
        job = await submit(http, document(Imports=imports))
        work = await prepared(http, job)
        folder = site.directory(job.rpartition("/")[2])
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert stat.S_IMODE((folder / "start.sh").stat().st_mode) == 0o600
        assert stat.S_IMODE((folder / "run.sh").stat().st_mode) & 0o700 == 0o700
        assert (folder / "lines").read_text() == "a\nb\n"
        assert (await http.put(work, json={"umask": "077"})).json() == {"umask": "OK"}
        assert (await http.put(f"{work}/files/late", content=b"late", headers=OCTETS)).status_code == 204
        assert stat.S_IMODE((folder / "late").stat().st_mode) == 0o600
        assert (await http.put(f"{work}/files/late", json={"permissions": "r--------"})).json() == {"permissions": "OK"}
        assert stat.S_IMODE((folder / "late").stat().st_mode) == 0o400


async def test_files_are_taken_once_the_directory_is_there(site: Site) -> None:
    async with client(site) as http:
        job = await submit(http, document())
        late = f"/storages/{job.rpartition('/')[2]}-uspace/files/late"
        early = await http.put(late, content=b"x", headers=OCTETS)
        assert (early.status_code, "Error uploading" in early.text) in ((500, True), (204, False))
        await prepared(http, job)
        assert (await http.put(late, content=b"x", headers=OCTETS)).status_code == 204
        assert (await http.put(late, content=b"x")).status_code == 415


async def test_a_directory_is_listed_and_files_are_read_whole_and_in_parts(site: Site) -> None:
    async with port(site) as launcher, client(site) as http:
        job = await launcher.create(described(), OWNER)
        await launcher.stage(job, {"digits": b"0123456789"}, OWNER)
        assert (await launcher.sizes(job, OWNER))["digits"] == 10
        for offset, length, part in ((0, 4, b"0123"), (4, 2, b"45"), (8, 99, b"89")):
            assert await launcher.read(job, "digits", OWNER, offset=offset, length=length) == part
        assert await launcher.read(job, "nothing", OWNER, offset=0, length=2) == b""
        work = await prepared(http, f"{site.base_url}/jobs/{job}")
        about = (await http.get(f"{work}/files/digits")).json()
        assert (about["size"], about["isDirectory"], about["permissions"]) == (10, False, "rw-")
        for wanted, part in (("bytes=0-1", b"01"), ("bytes=8-", b"89"), ("bytes=-3", b"789"), ("bytes=50-60", b"")):
            answer = await http.get(f"{work}/files/digits", headers=RAW | {"Range": wanted})
            assert (wanted, answer.status_code, answer.content) == (wanted, 206, part)
        assert (await http.get(f"{work}/files/nothing", headers=RAW)).status_code == 404


class Callbacks:
    """Where a site posts its notifications."""

    def __init__(self) -> None:
        self.arrived: list[tuple[str, dict[str, Any]]] = []

    async def take(self, request: web.Request) -> web.Response:
        self.arrived.append((request.headers["Authorization"].removeprefix("Bearer "), await request.json()))
        return web.Response(status=204)


@asynccontextmanager
async def callbacks() -> AsyncIterator[tuple[Callbacks, str]]:
    taken = Callbacks()
    app = web.Application()
    app.router.add_post("/notifications", taken.take)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield taken, f"http://127.0.0.1:{runner.addresses[0][1]}/notifications"
    finally:
        await runner.cleanup()


async def test_notifications_come_signed_by_the_site_about_the_user(site: Site) -> None:
    async with callbacks() as (taken, url), client(site) as http, port(site) as launcher:
        wanted = {"URL": url, "status": ["QUEUED", "RUNNING", "SUCCESSFUL", "FAILED"], "bssStatus": ["PENDING"]}
        job = await submit(http, document("exit 2", NotificationSettings=wanted))
        await prepared(http, job)
        await http.post(f"{job}/actions/start", json={})

        async def told() -> bool:
            return any(body.get("status") == "FAILED" for _, body in taken.arrived)

        await until(told)
        pem = await launcher.certificate()
        for token, body in taken.arrived:
            verify(token, pem, ADA)
            assert body["href"] == job
        last = next(body for _, body in taken.arrived if body.get("status") == "FAILED")
        assert last["exitCode"] == "2"
        assert {"QUEUED", "FAILED"} <= {body.get("status") for _, body in taken.arrived}
        with pytest.raises(Exception, match="another user"):
            verify(taken.arrived[0][0], pem, BEN)


async def test_a_session_stands_for_its_user_until_it_is_lost(site: Site) -> None:
    async with client(site) as http, client(site, "") as nobody:
        session = (await http.get("")).headers[SESSION_HEADER]
        assert (await nobody.get("", headers={SESSION_HEADER: session})).json()["client"]["dn"] == ADA
        lost = await nobody.get("", headers={SESSION_HEADER: "none-such"})
        assert (lost.status_code, lost.content) == (432, b"")
    async with port(site) as launcher:
        marks = described().marks
        assert await launcher.find(marks, OWNER) == []
        await site.restart()
        assert await launcher.find(marks, OWNER) == []


async def test_preferences_choose_account_and_group_within_what_the_user_has(site: Site) -> None:
    async with client(site) as http:
        for wanted, uid, group in (("uid:ada2,group:zbridge", "ada2", "zbridge"), ("uid:ada1", "ada1", "ztrain")):
            answer = await http.get("", headers={"X-UNICORE-User-Preferences": wanted})
            login = answer.json()["client"]["xlogin"]
            assert (login["UID"], login["group"], login["availableUIDs"]) == (uid, group, ["ada1", "ada2"])
        for wanted in ("uid:root", "group:wheel", "uid"):
            answer = await http.get("", headers={"X-UNICORE-User-Preferences": wanted})
            assert (wanted, answer.status_code, answer.content) == (wanted, 403, b"")
    async with port(site) as launcher:
        with pytest.raises(PermanentError, match="refused-by-site"):
            await launcher.create(described(), Owner(ADA, "root", "ztrain"))


async def test_all_pages_are_read(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unicore, "PAGE", 2)
    async with port(site) as launcher, client(site) as http:
        tag = f"page-{os.urandom(4).hex()}"
        for _ in range(5):
            await submit(http, document(Tags=[tag, "farlab-installation-pages"]))
        page = (await http.get("/jobs", params={"tags": tag, "num": "2"})).json()
        assert (len(page["jobs"]), "next" in page["_links"]) == (2, True)
        assert len((await http.get("/jobs", params={"tags": tag, "offset": "4", "num": "2"})).json()["jobs"]) == 1
        jobs = await launcher.tagged_jobs("pages", OWNER, ())
        assert len(jobs) >= 5
        assert all(isinstance(each, TaggedJob) for each in jobs)
        assert (await http.get("/jobs", params={"offset": "-1"})).status_code == 500
        assert (await http.get("/jobs", params={"num": "x"})).status_code == 404


async def test_wrong_and_expired_tokens_are_refused_without_a_word(site: Site) -> None:
    wrong = {
        "expired": delegated(site, lifetime=-100),
        "not trusted": delegated(site, issuer="CN=Somebody"),
        "password": "Basic YWRhMTp3cm9uZw==",
        "nonsense": "Bearer nonsense",
    }
    for what, header in wrong.items():
        async with client(site, header) as http:
            answer = await http.get("/jobs")
            assert (what, answer.status_code, answer.content) == (what, 403, b"")


async def test_who_is_not_known_is_anybody_and_anybody_has_no_jobs(site: Site) -> None:
    async with client(site) as http:
        job = await submit(http, document())
    for header in ("", delegated(site, "CN=Nobody")):
        async with client(site, header) as http:
            assert (await http.get("")).json()["client"]["role"]["selected"] == "anonymous"
            assert (await http.get("/jobs")).json()["jobs"] == []
            assert (await http.post("/jobs", json=document())).status_code == 403
            assert (await http.get(job)).status_code == 403
    async with client(site, delegated(site, BEN)) as http:
        for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/actions/abort")):
            answer = await http.request(method, f"{job}{path}", json={} if method == "POST" else None)
            assert (answer.status_code, answer.content) == (403, b"")
    async with port(site) as launcher:
        with pytest.raises(PermanentError, match="refused-by-site"):
            await launcher.create(described(), Owner("CN=Nobody", "nobody", "ztrain"))
        assert isinstance(await launcher.report(job.rpartition("/")[2], BEN_OWNER), Unknown)


async def test_a_closed_site_says_why_and_keeps_what_it_has(site: Site) -> None:
    async with port(site) as launcher, client(site) as http:
        job = await launcher.create(described("exit 4"), OWNER)
        await site.take_no_jobs("maintenance until noon")
        try:
            said = (await http.get("")).json()["server"]["jobSubmission"]
            assert (said["enabled"], said["message"]) == (False, "maintenance until noon")
            with pytest.raises(TransientError, match="maintenance until noon"):
                await launcher.create(described(), OWNER)
            assert (await http.post("/jobs", json=document())).status_code == 503
            await launcher.start(job, OWNER)
            assert (await ended(launcher, job)).exit_code == 4
        finally:
            await site.take_jobs()
        assert await launcher.create(described(), OWNER)


async def test_a_port_of_a_running_job_is_forwarded(site: Site) -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"echo:" + await reader.read(100))
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    listening = server.sockets[0].getsockname()[1]
    async with server, client(site) as http:
        job = await submit(http, document("sleep 60"))
        await prepared(http, job)
        await http.post(f"{job}/actions/start", json={})
        await status(http, job, "RUNNING")
        head, answer = await _forwarded(site, f"{job}/forward-port?port={listening}")
        assert head.startswith(b"HTTP/1.1 101")
        assert b"UNICORE-Socket-Forwarding" in head
        assert answer == b"echo:hello"
        head, answer = await _forwarded(site, f"{job}/forward-port?host=127.0.0.1&port=1")
        assert head.startswith(b"HTTP/1.1 500")
        assert (await http.get(f"{job}/forward-port", params={"port": listening})).status_code == 200
        await http.delete(job)


async def _forwarded(site: Site, url: str) -> tuple[bytes, bytes]:
    parts = urlsplit(url)
    context = ssl.create_default_context(cafile=str(site.ca_file))
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port, ssl=context)
    try:
        lines = [
            f"GET {parts.path}?{parts.query} HTTP/1.1",
            f"Host: {parts.netloc}",
            f"Authorization: {delegated(site)}",
            "Connection: Upgrade",
            "Upgrade: UNICORE-Socket-Forwarding",
        ]
        writer.write("\r\n".join([*lines, "", ""]).encode())
        async with asyncio.timeout(20):
            head = await reader.readuntil(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 101"):
                return head, b""
            writer.write(b"hello")
            return head, await reader.read(100)
    finally:
        writer.close()


async def test_a_users_own_token_is_checked_with_the_identity_provider(site: Site, identity_provider_port: int) -> None:
    party = Client(client_id=CLIENT_ID, client_secret=CLIENT_SECRET, redirect_uris=[CALLBACK])
    configuration = ProviderConfiguration(port=identity_provider_port, clients=[party], people=PEOPLE)
    async with IdentityProvider(configuration) as provider:
        browser = Browser(provider)
        try:
            token = (await browser.tokens("ada"))["access_token"]
        finally:
            await browser.close()
        async with client(site, f"Bearer {token}") as http:
            who = (await http.get("")).json()["client"]
            assert (who["dn"].lower(), who["role"]["selected"], who["xlogin"]["UID"]) == (ADA.lower(), "user", "ada1")
            job = await submit(http, document("echo mine; exit 6"))
            await prepared(http, job)
            await http.post(f"{job}/actions/start", json={})
            assert (await status(http, job, *ENDED))["exitCode"] == "6"
        async with client(site, "Bearer forged") as http:
            assert (await http.get("/jobs")).status_code == 403
    async with client(site) as http:
        assert (await http.get(job)).json()["status"] == "FAILED"


async def test_a_start_travels_with_its_users_own_token_and_delegation_ends_it_after_the_sign_in(
    site: Site, identity_provider_port: int
) -> None:
    tokens: dict[str, str] = {}

    async def own_token(user: UserName) -> str:
        return tokens[user]

    wanted = described("sleep 60")
    owner = Owner(ADA, "ada1", "ztrain", UserName("ada"))
    launcher = site_of(system_at(site, credentials="user-token"), lambda _: own_token)
    party = Client(client_id=CLIENT_ID, client_secret=CLIENT_SECRET, redirect_uris=[CALLBACK])
    configuration = ProviderConfiguration(port=identity_provider_port, clients=[party], people=PEOPLE)
    try:
        async with IdentityProvider(configuration) as provider:
            browser = Browser(provider)
            try:
                for name in ("ada", "ben"):
                    tokens[name] = (await browser.tokens(name))["access_token"]
            finally:
                await browser.close()
            job = await launcher.create(wanted, owner)
            assert provider.requests["/userinfo"] >= 1
            with pytest.raises(PermanentError, match=r"takes your sign-in for (?i:CN=ben)"):
                await launcher.create(described(), Owner(ADA, "ben1", "ztrain", UserName("ben")))
            tokens["ada"] = "forged"
            with pytest.raises(PermanentError, match="presenting your sign-in"):
                await launcher.create(described(), owner)
        assert await launcher.find(wanted.marks, owner) == [job]
        await launcher.stage(job, {"secret.json": b"secret"}, owner)
        await launcher.start(job, owner)
        assert isinstance(await launcher.report(job, owner), Queued | Running | Configuring)
        await launcher.abort(job, owner)
        await ended(launcher, job, owner)
        await launcher.delete(job, owner)
        assert await launcher.find(wanted.marks, owner) == []
    finally:
        await launcher.close()


async def test_a_tunnel_leads_through_the_site_to_a_port_of_a_running_job(site: Site) -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
        writer.close()

    async def said_back(address: Address, content: bytes) -> bytes:
        reader, writer = await asyncio.open_connection(address.host, address.port)
        try:
            writer.write(content)
            async with asyncio.timeout(20):
                return await reader.readexactly(len(content))
        finally:
            writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    listening = server.sockets[0].getsockname()[1]
    ways = StreamWays(UnicoreSide(system_at(site).site), PortRange("127.0.0.1", (0, 0)))
    session = SessionId("01s")
    try:
        async with server, client(site) as http:
            job = await submit(http, document("sleep 60"))
            await prepared(http, job)
            await http.post(f"{job}/actions/start", json={})
            await status(http, job, "RUNNING")
            target = Target("127.0.0.1", listening, job.rpartition("/")[2], ADA, "ada1", "ztrain")
            way = await ways.open(session, target, 0)
            assert await ways.open(session, target, 0) is way
            content = bytes(range(256)) * 2_000
            assert await asyncio.gather(*[said_back(way.address, content) for _ in range(4)]) == [content] * 4
            wrong = await ways.open(SessionId("02s"), msgspec.structs.replace(target, port=1), 0)
            reader, writer = await asyncio.open_connection(wrong.address.host, wrong.address.port)
            async with asyncio.timeout(20):
                assert await reader.read() == b""
            writer.close()
            with pytest.raises(LostError, match="does not forward"):
                await ways.connect(msgspec.structs.replace(target, identity="CN=Nobody"))
            assert not ways.came_back.is_set()
            await said_back(way.address, b"again")
            assert ways.came_back.is_set()
            await http.delete(job)
    finally:
        await ways.close()
    with pytest.raises(OSError, match="Connect call failed"):
        await asyncio.open_connection(way.address.host, way.address.port)
