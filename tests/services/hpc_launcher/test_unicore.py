"""The adapter against an emulated site over HTTPS: exactly one job, private files, everything safe to repeat."""

from __future__ import annotations

import asyncio
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from emulators.unicore_site.faults import Fault, Kind
from emulators.unicore_site.site import UnicoreSite
from services._launching.comparison import TaggedJob
from services._runtime.errors import PermanentError, TransientError
from services.hpc_launcher import script, unicore
from services.hpc_launcher.app import site_of
from services.hpc_launcher.ports import Finished, Gone, Inert, JobDescription, Marks, Owner, Site, Unknown
from tests.services.hpc_launcher.stage import emulated_site, system_at
from tests.support.samples import HUB, Story, new_session

ADA = Owner("CN=Ada", "ada1", "ztrain")
JOBS = r"/rest/core/jobs$"


@asynccontextmanager
async def port(folder: Path) -> AsyncIterator[tuple[Site, UnicoreSite]]:
    async with emulated_site(folder) as (emulated, key):
        site = site_of(system_at(emulated, key))
        try:
            yield site, emulated
        finally:
            await site.close()


def described(command: str = "true", partition: str = "batch") -> JobDescription:
    request = Story(new_session()).requested()
    return JobDescription(
        name="x",
        marks=Marks("farlab", HUB, request.session),
        executable="/bin/bash",
        arguments=("start.sh",),
        files={"start.sh": command},
        partition=partition,
        project="ztrain",
        resources=request.resources,
    )


async def ended(site: Site, job: str) -> Finished:
    async with asyncio.timeout(20):
        while not isinstance(report := await site.report(job, ADA), Finished):
            await asyncio.sleep(0.02)
    return report


async def test_a_job_is_inert_until_it_is_started_and_its_secrets_are_private(tmp_path: Path) -> None:
    async with port(tmp_path) as (site, emulated):
        wanted = described("echo out; echo err >&2; exit 3")
        job = await site.create(wanted, ADA)
        assert await site.report(job, ADA) == Inert()
        await site.stage(job, {"secret.json": b"s"}, ADA)
        await site.stage(job, {"secret.json": b"secret"}, ADA)
        file = emulated.store.working_directory(emulated.store.jobs[job]) / "secret.json"
        assert (file.read_bytes(), stat.S_IMODE(file.stat().st_mode)) == (b"secret", 0o600)
        assert await site.find(wanted.marks, ADA) == [job]
        await site.start(job, ADA)
        await site.start(job, ADA)
        report = await ended(site, job)
        assert (report.succeeded, report.exit_code) == (False, 3)
        assert "Created with ID" in report.log
        sizes = await site.sizes(job, ADA)
        assert (sizes["stdout"], sizes["stderr"], sizes["secret.json"]) == (4, 4, 6)
        assert await site.read(job, "stdout", ADA, offset=1, length=2) == b"ut"
        assert await site.read(job, "nothing", ADA, offset=0, length=2) == b""
        await site.abort(job, ADA)
        await site.delete(job, ADA)
        await site.delete(job, ADA)
        await site.abort(job, ADA)
        assert await site.report(job, ADA) == Gone()
        assert await site.sizes(job, ADA) == {}
        assert emulated.store.jobs == {}


async def test_a_lost_answer_leaves_a_job_that_is_found_by_its_tag(tmp_path: Path) -> None:
    async with port(tmp_path) as (site, emulated):
        wanted = described()
        emulated.faults.planned.append(Fault(kind="drop-after", method="POST", path=JOBS))
        with pytest.raises(TransientError):
            await site.create(wanted, ADA)
        [job] = await site.find(wanted.marks, ADA)
        assert list(emulated.store.jobs) == [job]


async def test_doubles_are_found_all_in_one_order(tmp_path: Path) -> None:
    async with port(tmp_path) as (site, _):
        wanted = described()
        made = [await site.create(wanted, ADA) for _ in range(3)]
        found = await site.find(wanted.marks, ADA)
        assert sorted(found) == sorted(made)
        assert await site.find(wanted.marks, ADA) == found


@pytest.mark.parametrize(
    ("kind", "words"), [("missing", "preparing the job's directory"), ("error500", "Internal server error")]
)
async def test_an_inert_job_whose_directory_the_site_lost_or_cannot_use_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Kind, words: str
) -> None:
    async with port(tmp_path) as (site, emulated):
        wanted = described()
        job = await site.create(wanted, ADA)
        emulated.faults.planned.append(Fault(kind=kind, method="PUT", path="/storages/", times=4))
        for _ in range(3):
            with pytest.raises(TransientError, match=words):
                await site.stage(job, {"secret.json": b"secret"}, ADA)
        assert await site.find(wanted.marks, ADA) == [job]
        monkeypatch.setattr(unicore, "LOST_AFTER_SECONDS", 0.0)
        with pytest.raises(TransientError, match="lost the job's directory"):
            await site.stage(job, {"secret.json": b"secret"}, ADA)
        assert await site.find(wanted.marks, ADA) == []
        await site.stage(await site.create(wanted, ADA), {"secret.json": b"secret"}, ADA)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("submission-disabled", "maintenance of the file system until noon"),
        ("too-many-requests", "slow down"),
        ("error500", "Internal server error"),
        ("drop", "creating the job"),
    ],
)
async def test_trouble_at_creation_is_told_in_the_sites_words_and_passes(
    tmp_path: Path, kind: Kind, words: str
) -> None:
    async with port(tmp_path) as (site, emulated):
        emulated.faults.planned.append(Fault(kind=kind, method="POST", path=JOBS))
        with pytest.raises(TransientError, match=words):
            await site.create(described(), ADA)
        assert await site.create(described(), ADA)


async def test_a_job_the_site_never_takes_is_refused_for_good(tmp_path: Path) -> None:
    async with port(tmp_path) as (site, emulated):
        wanted = described()
        emulated.faults.planned.append(Fault(kind="error500", method="POST", path=JOBS, times=100))
        for _ in range(unicore.REFUSALS_BELIEVED - 1):
            with pytest.raises(TransientError):
                await site.create(wanted, ADA)
        with pytest.raises(PermanentError, match="rejected-by-site"):
            await site.create(wanted, ADA)
        assert len(emulated.store.jobs) == 0


async def test_who_may_not_is_told_so(tmp_path: Path) -> None:
    async with port(tmp_path) as (site, _):
        for owner in (Owner("CN=Nobody", "ada1", "ztrain"), Owner("CN=Ada", "root", "ztrain")):
            with pytest.raises(PermanentError, match="refused-by-site"):
                await site.create(described(), owner)


@pytest.mark.parametrize("kind", ["error500", "drop", "unauthorised", "forbidden", "invalid-json", "too-many-requests"])
async def test_an_error_is_never_read_as_stopped(tmp_path: Path, kind: Kind) -> None:
    async with port(tmp_path) as (site, emulated):
        job = await site.create(described(), ADA)
        emulated.faults.planned.append(Fault(kind=kind, method="GET", path=f"/jobs/{job}$", times=2))
        report = await site.report(job, ADA)
        assert isinstance(report, Unknown)
        assert report.evidence


async def test_lost_security_sessions_are_no_trouble(tmp_path: Path) -> None:
    async with port(tmp_path) as (site, emulated):
        job = await site.create(described(), ADA)
        emulated.lose_sessions()
        assert await site.report(job, ADA) == Inert()


async def test_all_pages_of_tagged_jobs_are_read_and_only_the_unknown_are_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unicore, "PAGE", 2)
    async with port(tmp_path) as (site, emulated):
        wanted = [described() for _ in range(5)]
        jobs = [await site.create(each, ADA) for each in wanted]
        emulated.requests.clear()
        found = await site.tagged_jobs("farlab", ADA, jobs[:4])
        assert found == [TaggedJob(jobs[4], wanted[4].marks.session)]
        assert sum(emulated.requests.values()) == 3 + 1
        assert await site.tagged_jobs("another", ADA, ()) == []


async def test_a_start_costs_the_site_few_requests(tmp_path: Path) -> None:
    async with port(tmp_path) as (site, emulated):
        wanted = described()
        assert await site.find(wanted.marks, ADA) == []
        job = await site.create(wanted, ADA)
        await site.stage(job, {script.SECRETS_FILE: b"{}"}, ADA)
        await site.start(job, ADA)
        assert sum(emulated.requests.values()) == 7


async def test_the_certificate_is_fetched_once(tmp_path: Path) -> None:
    async with port(tmp_path) as (site, emulated):
        first = await site.certificate()
        assert await site.certificate() == first
        assert first.startswith("-----BEGIN CERTIFICATE-----")
        assert emulated.requests["GET /DEMO/rest/core/certificate"] == 1
        await site.certificate(fresh=True)
        assert emulated.requests["GET /DEMO/rest/core/certificate"] == 2


async def test_a_site_with_another_certificate_is_not_spoken_to(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    async with emulated_site(tmp_path / "a") as (real, key), emulated_site(tmp_path / "b") as (other, _):
        system = system_at(real, key)
        forged = msgspec.structs.replace(system, site=msgspec.structs.replace(system.site, url=other.base_url))
        site = site_of(forged)
        with pytest.raises(TransientError, match="certificate"):
            await site.create(described(), ADA)
        await site.close()
        assert not other.store.jobs
        assert not other.requests
