"""What fails between the launcher and a real slurmrestd, and what the launcher makes of it."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import msgspec
import pytest

from services._runtime.errors import PermanentError, TransientError
from services._runtime.systems import SlurmSite
from services.hpc_launcher.app import site_of
from services.hpc_launcher.ports import Finished, Running, Site, Unknown
from services.hpc_launcher.slurm_tokens import LIFETIME_SECONDS, SlurmTokens
from tests.real.slurm.conftest import REAL
from tests.real.slurm.jobs import OWNER, description, eventually, marks, until_report
from tests.real.slurm.launching import Start, again, end_of, history, launcher, runs
from tests.real.slurm.site import RealSlurm, system

pytestmark = REAL
UNBELIEVED = r"does not believe this service's tokens \(jwt_key_file is not its key, or a clock is minutes off\)"


@contextlib.asynccontextmanager
async def adapter(real: RealSlurm, key: Path | None = None) -> AsyncIterator[Site]:
    described = system(real, "rest")
    assert isinstance(described.site, SlurmSite)
    rest = msgspec.structs.replace(described.site.rest, jwt_key_file=str(key or real.jwt_key))
    site = site_of(msgspec.structs.replace(described, site=msgspec.structs.replace(described.site, rest=rest)))
    try:
        yield site
    finally:
        await site.close()


async def answers(site: Site) -> bool:
    try:
        await site.certificate(fresh=True)
    except TransientError:
        return False
    return True


def folders(real: RealSlurm, number: int) -> list[Path]:
    return list(real.jobs.glob(f"{marks(number).session}-*"))


async def test_with_another_key_a_start_waits_and_a_job_is_unknown(real: RealSlurm, tmp_path: Path) -> None:
    other = tmp_path / "other.key"
    other.touch(0o600)
    other.write_bytes(os.urandom(32))
    async with adapter(real, other) as site:
        with pytest.raises(TransientError, match=UNBELIEVED):
            await site.create(description(31), OWNER)
        report = await site.report(f"1@{marks(31).session}-abcdefgh", OWNER)
        assert isinstance(report, Unknown)
        assert "does not believe this service's tokens" in report.evidence
    [folder] = folders(real, 31)  # kept for a job of which nobody knows whether it exists
    shutil.rmtree(folder)
    assert b"farlab-01k" not in real.slurm("squeue", "--noheader", "--format=%j")


async def test_an_expired_token_is_not_believed_and_a_new_one_is(
    real: RealSlurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = SlurmTokens.token
    async with adapter(real) as site:
        monkeypatch.setattr(
            SlurmTokens,
            "token",
            lambda self, account: made(SlurmTokens(real.jwt_key, lambda: -LIFETIME_SECONDS), account),
        )
        with pytest.raises(TransientError, match=UNBELIEVED):
            await site.find(marks(32), OWNER)
        monkeypatch.undo()
        assert await site.find(marks(32), OWNER) == []


async def test_without_slurmrestd_a_start_waits_leaves_no_folder_and_goes_on(real: RealSlurm) -> None:
    async with adapter(real) as site:
        await site.certificate(fresh=True)
        real.stop("slurmrestd")
        try:
            with pytest.raises(TransientError, match="its slurmrestd cannot be reached"):
                await site.create(description(33), OWNER)
            assert folders(real, 33) == []
            assert isinstance(await site.report(f"1@{marks(33).session}-abcdefgh", OWNER), Unknown)
        finally:
            real.slurmrestd()
        await eventually(lambda: answers(site))
        job = await site.create(description(33), OWNER)
        await site.delete(job, OWNER)
        assert folders(real, 33) == []


async def test_without_a_login_node_a_job_is_followed_and_ended_all_the_same(real: RealSlurm) -> None:
    async with adapter(real) as site:
        job = await site.create(description(34), OWNER)
        await site.start(job, OWNER)
        real.sshd.stop()
        real.sshd.kill_connections()
        try:
            await until_report(site, job, Running)
            await site.abort(job, OWNER)
            await until_report(site, job, Finished)
            with pytest.raises(TransientError, match="its login node is away"):
                await site.delete(job, OWNER)
        finally:
            real.sshd.start()
        await eventually(lambda: removed(site, job))
        assert folders(real, 34) == []


async def removed(site: Site, job: str) -> bool:
    try:
        await site.delete(job, OWNER)
    except TransientError:
        return False
    return True


async def test_nobody_ends_or_starts_a_job_of_another_by_its_number(real: RealSlurm) -> None:
    async with adapter(real) as site:
        job = await site.create(description(35), OWNER)
        number, folder = job.split("@")
        other = f"{number}@{folder[:-8]}abcdefgh"
        await site.abort(other, OWNER)
        with pytest.raises(PermanentError, match="lost the job"):
            await site.start(other, OWNER)
        assert await site.find(marks(35), OWNER) == [job]
        await site.delete(job, OWNER)


async def test_what_slurm_shows_of_a_job_is_that_of_sbatch_and_holds_no_secret(real: RealSlurm) -> None:
    shown = []
    for way, number in (("ssh", 36), ("rest", 37)):
        site = site_of(system(real, way))
        try:
            job = await site.create(description(number, memory_bytes=64 * 1024 * 1024, cores=1), OWNER)
            await site.stage(job, {"secret.json": b"canary-4712"}, OWNER)
            number_, folder = job.split("@")
            said = real.slurm("scontrol", "show", "job", number_).decode()
            script = real.slurm("scontrol", "write", "batch_script", number_, "-").decode()
            await site.delete(job, OWNER)
        finally:
            await site.close()
        assert "canary" not in said + script
        plain = said.replace(folder, "FOLDER").replace(marks(number).session, "SESSION")
        shown.append([word for word in plain.split() if word.split("=")[0] in SHOWN])
    assert shown[0] == shown[1]
    assert len(shown[1]) == len(SHOWN)


SHOWN = {"JobName", "UserId", "Requeue", "TimeLimit", "Partition", "NumNodes", "NumTasks", "CPUs/Task"} | {
    "MinMemoryNode",
    "WorkDir",
    "Comment",
    "StdOut",
    "StdErr",
    "Reason",
    "JobState",
    "OverSubscribe",
}


@contextlib.contextmanager
def changed_program(real: RealSlurm, old: str, new: str) -> Iterator[None]:
    """Another forced command on the login node, for as long as the context lasts."""
    program = real.root / "farlab_slurm"
    ours = program.read_text()
    assert old in ours
    program.write_text(ours.replace(old, new))
    try:
        yield
    finally:
        program.write_text(ours)


async def test_a_forced_command_without_the_new_verbs_is_named(real: RealSlurm) -> None:
    with changed_program(real, "(version, prepare, create", "(version, create"):
        async with adapter(real) as site:
            with pytest.raises(PermanentError, match="farlab-slurm on the login node of Real Slurm is too old") as old:
                await site.create(description(38), OWNER)
            assert old.value.code == "old-forced-command"
    assert folders(real, 38) == []


async def test_login_nodes_need_no_slurm(real: RealSlurm) -> None:
    with changed_program(real, '"PATH": "/usr/bin:/bin', '"PATH": "/nowhere'):
        async with adapter(real) as site:
            await site.certificate(fresh=True)
            job = await site.create(description(39), OWNER)
            await site.start(job, OWNER)
            await until_report(site, job, Running)
            await site.delete(job, OWNER)
        assert folders(real, 39) == []
        other = site_of(system(real))
        with pytest.raises(TransientError, match="Slurm's commands are missing"):
            await other.certificate(fresh=True)
        await other.close()


async def test_a_start_waits_for_slurmrestd_and_says_so_then_runs_and_stops(real: RealSlurm, tmp_path: Path) -> None:
    async with launcher(real, tmp_path, way="rest") as stage:
        story = Start()
        real.stop("slurmrestd")
        try:
            await stage.admit(story)
            await stage.said(story, "ProgressReported")
        finally:
            real.slurmrestd()
        await again(stage, story)
        await runs(stage, story)
        said = [str(each) for each in await history(stage, story) if type(each).__name__ == "ProgressReported"]
        assert "Waiting for the site: Real Slurm: its slurmrestd cannot be reached" in said[0]
        await stage.append(story.stop())
        assert (await end_of(stage, story)).outcome == "stopped"
        await stage.log.settled()
        assert list(real.jobs.glob(f"{story.session}-*")) == []
