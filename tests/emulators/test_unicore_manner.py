"""How the emulated site answers what is unusual and what is wrong, as UNICORE/X was seen to do."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.emulators.calls import BEN, INERT, RAW, client, delegated, script, status, submit, unicore_site


async def test_what_is_not_there_is_a_404_without_words_within_a_session(tmp_path: Path) -> None:
    async with unicore_site(tmp_path) as site, client(site, tmp_path) as http:
        for method, path in (("GET", ""), ("PUT", ""), ("DELETE", ""), ("POST", "/actions/abort"), ("GET", "/details")):
            answer = await http.request(method, f"/jobs/none{path}", json={} if method != "GET" else None)
            assert (answer.status_code, answer.content) == (404, b"")
            assert "X-UNICORE-SecuritySession" in answer.headers
        for path in ("/storages/none-uspace", "/storages/none/files/", "/nowhere"):
            assert (await http.get(path)).status_code == 404


async def test_an_impossible_job_is_taken_and_fails_at_its_start(tmp_path: Path) -> None:
    impossible = INERT | {"Resources": {"Queue": "devel", "Nodes": 2}}
    async with unicore_site(tmp_path) as site, client(site, tmp_path) as http:
        job = await submit(http, impossible)
        assert (await http.get(job)).json()["status"] == "READY"
        assert (await http.post(f"{job}/actions/start", json={})).status_code == 204
        assert "Nodes=2" in (await status(http, job, "FAILED"))["statusMessage"]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"x"', b'{"Arguments": 1}', b'{"Executable": "\\ud800"}', b"\xff"])
async def test_what_is_no_job_is_refused(tmp_path: Path, body: bytes) -> None:
    async with unicore_site(tmp_path) as site, client(site, tmp_path) as http:
        answer = await http.post("/jobs", content=body, headers={"Content-Type": "application/json"})
        assert (answer.status_code, answer.json()["status"]) == (500, 500)
        assert "Could not submit job" in answer.json()["errorMessage"]
        assert site.store.jobs == {}


async def test_pages_are_linked_forwards_and_backwards_and_the_links_forget_the_tags(tmp_path: Path) -> None:
    async with unicore_site(tmp_path, page_size=2) as site, client(site, tmp_path) as http:
        await submit(http, INERT | {"Tags": ["other"]})
        for _ in range(5):
            await submit(http, INERT | {"Tags": "mine too"})
        page = (await http.get("/jobs", params={"tags": "mine too"})).json()
        assert [name for name in ("next", "previous") if name in page["_links"]] == ["next"]
        found = len(page["jobs"])
        while "next" in page["_links"]:
            page = (await http.get(page["_links"]["next"]["href"])).json()
            found += len(page["jobs"])
            assert (await http.get(page["_links"]["previous"]["href"])).status_code == 200
        assert found == 6
        assert len((await http.get("/storages", params={"num": 100})).json()["storages"]) == 6
        for wrong in ({"offset": -1}, {"num": "x"}):
            assert (await http.get("/jobs", params=wrong)).status_code in (404, 500)


async def test_an_abort_returns_before_the_job_has_ended(tmp_path: Path) -> None:
    stubborn = script("trap '' TERM; while :; do sleep 0.05; done")
    async with unicore_site(tmp_path, kill_seconds=0.5) as site, client(site, tmp_path) as http:
        job = await submit(http, stubborn)
        await status(http, job, "RUNNING")
        assert (await http.post(f"{job}/actions/abort", json={})).status_code == 204
        assert (await http.get(job)).json()["status"] == "RUNNING"
        ended = await status(http, job, "FAILED")
        assert (ended["statusMessage"], ended.get("exitCode")) == ("Job aborted.", None)


async def test_properties_are_those_asked_for(tmp_path: Path) -> None:
    async with unicore_site(tmp_path) as site, client(site, tmp_path) as http:
        job = await submit(http, INERT)
        everything = set((await http.get(job)).json())
        assert {"status", "submissionTime", "submissionPreferences", "_links", "acl", "log"} <= everything
        assert set((await http.get(job, params={"fields": "status,tags"})).json()) == {"status", "tags"}
        assert set((await http.get(job, params={"fields": "!log !acl"})).json()) == everything - {"log", "acl"}
        assert set((await http.get("", params={"fields": "server"})).json()) == {"server"}
        assert (await http.get(f"{job}/submitted")).json() == INERT


async def test_tags_are_set_and_nothing_else(tmp_path: Path) -> None:
    async with unicore_site(tmp_path) as site, client(site, tmp_path) as http:
        job = await submit(http, INERT)
        said = (await http.put(job, json={"tags": ["a", "b c"], "status": "RUNNING"})).json()
        assert (said["tags"], "cannot be modified" in said["status"]) == ("OK", True)
        found = (await http.get(job)).json()
        assert (found["tags"], found["status"]) == (["a", "b c"], "READY")
        assert (await http.put(job, content=b"[]", headers={"Content-Type": "application/json"})).status_code == 400
    async with unicore_site(tmp_path) as site, client(site, tmp_path) as http:
        assert len((await http.get("/jobs", params={"tags": "a"})).json()["jobs"]) == 1


async def test_the_site_says_that_it_takes_no_jobs_before_one_is_tried(tmp_path: Path) -> None:
    async with unicore_site(tmp_path) as site, client(site, tmp_path) as http:
        assert (await http.get("")).json()["server"]["jobSubmission"]["enabled"] is True
        await http.post(f"{site.origin}/emulator/faults", json={"kind": "submission-disabled", "method": "POST"})
        said = (await http.get("")).json()["server"]["jobSubmission"]
        assert said["enabled"] is False
        assert (await http.post("/jobs", json=INERT)).json()["errorMessage"] == said["message"]


async def test_a_session_stands_for_its_user_and_keeps_the_preferences(tmp_path: Path) -> None:
    async with unicore_site(tmp_path) as site, client(site, tmp_path) as http:
        first = await http.get("", headers={"X-UNICORE-User-Preferences": "uid:ada2"})
        session = {"X-UNICORE-SecuritySession": first.headers["X-UNICORE-SecuritySession"], "Authorization": ""}
        assert 0 < int(first.headers["X-UNICORE-SecuritySession-Lifetime"]) <= 28_800_000
        again = await http.get("", headers=session)
        assert again.json()["client"]["xlogin"]["UID"] == "ada2"
        for _ in range(5):
            await http.get("", headers={"Authorization": delegated(tmp_path, BEN)})
        assert (await http.get("", headers=session)).status_code == 200
        for _ in range(5):
            await http.get("")
        assert (await http.get("", headers=session)).status_code == 432
        latest = (await http.get("")).headers["X-UNICORE-SecuritySession"]
        site.lose_sessions()
        assert (await http.get("", headers={"X-UNICORE-SecuritySession": latest})).status_code == 432
        assert (await http.get("", headers={"X-UNICORE-User-Preferences": "uid"})).status_code == 403


async def test_an_old_session_is_lost(tmp_path: Path) -> None:
    async with unicore_site(tmp_path, session_seconds=0.0) as site, client(site, tmp_path) as http:
        session = (await http.get("")).headers["X-UNICORE-SecuritySession"]
        assert (await http.get("", headers={"X-UNICORE-SecuritySession": session})).status_code == 432


async def test_files_and_directories(tmp_path: Path) -> None:
    async with unicore_site(tmp_path) as site, client(site, tmp_path) as http:
        job = await submit(http, INERT)
        work = (await http.get(job)).json()["_links"]["workingDirectory"]["href"]
        files, folder = f"{work}/files", site.store.working_directory(next(iter(site.store.jobs.values())))
        assert (await http.post(f"{files}/a/b")).status_code == 201
        await http.put(f"{files}/a/b/c%20%C3%BC", content=b"0123456789")
        (folder / "dangling").symlink_to("nowhere")
        (folder / "out").symlink_to(tmp_path)
        listing = (await http.get(f"{files}/a/b")).json()
        assert (listing["isDirectory"], list(listing["content"])) == (True, ["/a/b/c ü"])
        assert (listing["content"]["/a/b/c ü"]["size"], listing["content"]["/a/b/c ü"]["permissions"]) == (
            10,
            "rw-",
        )
        assert list((await http.get(f"{files}/")).json()["content"]) == ["/a/", "/out/"]
        assert list((await http.get(f"{files}/", params={"offset": 1, "num": 1})).json()["content"]) == []
        for leaves in ("out", "out/delegation.pem", "..%2f..%2fjob.json", "/etc/passwd"):
            assert (await http.get(f"{files}/{leaves}", headers=RAW)).status_code in (403, 404)
        parts = {"bytes=-3": b"789", "bytes=8-": b"89", "bytes=0-0": b"0", "bytes=5-99": b"56789", "bytes=10-": b""}
        for wanted, part in parts.items():
            answer = await http.get(f"{files}/a/b/c ü", headers=RAW | {"Range": wanted})
            assert (answer.status_code, answer.content) == (206, part)
        for wanted in ("bytes=5-4", "bytes=-11", "lines=1-2", "bytes=-"):
            assert (await http.get(f"{files}/a/b/c ü", headers=RAW | {"Range": wanted})).status_code == 416
        assert (await http.get(f"{files}/a", headers=RAW)).status_code == 406
        assert (await http.put(f"{files}/a", content=b"x")).status_code == 500
        assert (await http.put(f"{files}/a/b/c ü", json={"permissions": "r-x"})).json() == {"permissions": "OK"}
        assert (await http.get(f"{files}/a/b/c ü")).json()["permissions"] == "r-x"
        assert "FAILED" in (await http.put(f"{files}/a/b/c ü", json={"permissions": "777"})).json()["permissions"]
        assert (await http.put(f"{files}/none", json={"permissions": "rw-"})).status_code == 404
        assert [(await http.delete(f"{files}/a")).status_code for _ in range(2)] == [204, 404]


async def test_control_counts_requests_and_refuses_nonsense(tmp_path: Path) -> None:
    async with unicore_site(tmp_path) as site, client(site, tmp_path) as http:
        job = await submit(http, INERT)
        await http.get(job)
        counted = (await http.get(f"{site.origin}/emulator/requests")).json()
        assert counted == {"POST /DEMO/rest/core/jobs": 1, "GET /DEMO/rest/core/jobs/{job}": 1}
        await http.delete(f"{site.origin}/emulator/requests")
        assert (await http.get(f"{site.origin}/emulator/requests")).json() == {}
        wrong: object
        for wrong in ({"kind": "flood"}, {"kind": "drop", "path": "("}, {"kind": "drop", "times": 0}, []):
            answer = await http.post(f"{site.origin}/emulator/faults", json=wrong)
            assert (answer.status_code, bool(answer.json()["errorMessage"])) == (400, True)
        await http.post(f"{site.origin}/emulator/faults", json={"kind": "error500", "times": 9})
        await http.delete(f"{site.origin}/emulator/faults")
        assert (await http.get("")).status_code == 200


async def test_slow_hanging_broken_and_dropped_answers(tmp_path: Path) -> None:
    async with unicore_site(tmp_path) as site, client(site, tmp_path) as http:

        async def plan(**fault: object) -> None:
            await http.post(f"{site.origin}/emulator/faults", json=fault)

        await plan(kind="slow", seconds=0.2)
        before = asyncio.get_running_loop().time()
        assert (await http.get("")).status_code == 200
        assert asyncio.get_running_loop().time() - before >= 0.2
        await plan(kind="hang")
        with pytest.raises(httpx.ReadTimeout):
            await http.get("", timeout=0.2)
        await plan(kind="invalid-json")
        with pytest.raises(json.JSONDecodeError):
            (await http.get("")).json()
        await plan(kind="too-many-requests", seconds=7)
        assert (await http.get("")).headers["Retry-After"] == "7"
        for kind, jobs in (("drop", 0), ("crash", 0), ("drop-after", 1), ("crash-after", 2)):
            await plan(kind=kind, method="POST", path="/jobs$")
            with pytest.raises(httpx.TransportError):
                await http.post("/jobs", json=INERT)
            assert len(site.store.jobs) == jobs


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.sampled_from(["GET", "PUT", "POST", "DELETE"]), st.text(max_size=12), st.binary())))
def test_no_path_and_no_body_brings_the_site_into_disorder(tmp_path: Path, calls: list[tuple[str, str, bytes]]) -> None:
    async def play() -> None:
        async with unicore_site(tmp_path, tls=False) as site, client(site, tmp_path) as http:
            job = (await submit(http, INERT)).rpartition("/")[2]
            for method, name, body in calls:
                quoted = "".join(f"%{byte:02x}" for byte in name.encode(errors="replace"))
                for path in (f"/jobs/{quoted}", f"/storages/{job}-uspace/files/{quoted}", f"/storages/{quoted}"):
                    answer = await http.request(method, path, content=body)
                    assert answer.status_code < 600
                    if answer.status_code >= 500:
                        assert any(words in answer.text for words in ("Cannot access the file", "NullPointer"))
            assert (await http.get(f"/jobs/{job}")).json()["status"] == "READY"
            await http.delete(f"/jobs/{job}")

    asyncio.run(play())
    assert sorted(each.name for each in tmp_path.iterdir()) == ["delegation.pem", "delegation.pub.pem", "site"]


async def test_a_listing_shows_what_is_there_while_a_job_writes(tmp_path: Path) -> None:
    churn = script("while :; do for i in 1 2 3 4 5 6 7 8; do : >f$i; done; rm -f f*; done")
    async with unicore_site(tmp_path) as site, client(site, tmp_path) as http:
        job = await submit(http, churn)
        await status(http, job, "RUNNING")
        work = (await http.get(job)).json()["_links"]["workingDirectory"]["href"]
        found: list[dict[str, Any]] = [(await http.get(f"{work}/files/")).json() for _ in range(100)]
        assert all("/stdout" in listing["content"] for listing in found)
