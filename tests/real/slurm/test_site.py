"""The launcher's port against a real Slurm site, through a real sshd and the forced command."""

from __future__ import annotations

import asyncio

import asyncssh
import msgspec
import pytest

from services._runtime.errors import PermanentError, TransientError
from services.hpc_launcher.app import site_of
from services.hpc_launcher.ports import Finished, Gone, Inert, Running, Site
from tests.real.slurm.conftest import REAL
from tests.real.slurm.jobs import OWNER, description, eventually, marks, until_report
from tests.real.slurm.site import ACCOUNT, RealSlurm, system

pytestmark = REAL
BOTH_WAYS = pytest.mark.parametrize(("way", "number"), [("ssh", 1), ("rest", 21)])


@BOTH_WAYS
async def test_a_job_lives_and_its_secrets_are_its_owners(real: RealSlurm, way: str, number: int) -> None:
    site = site_of(system(real, way))
    try:
        job = await site.create(description(number), OWNER)
        assert await site.find(marks(number), OWNER) == [job]
        assert await site.find(marks(number + 1), OWNER) == []
        assert isinstance(await site.report(job, OWNER), Inert)
        assert [each.session for each in await site.tagged_jobs("test", OWNER, [])] == [marks(number).session]
        assert list(await site.tagged_jobs("test", OWNER, [job])) == []
        await site.stage(job, {"secret.json": b"canary-4711"}, OWNER)
        folder = real.jobs / job.partition("@")[2]
        assert ((folder / "secret.json").stat().st_mode & 0o777, folder.stat().st_mode & 0o777) == (0o600, 0o700)
        assert b"canary" not in real.slurm("scontrol", "show", "job")
        await site.start(job, OWNER)
        await site.start(job, OWNER)
        await until_report(site, job, Running)
        await eventually(lambda: _wrote(site, job))
        assert await site.read(job, "stdout", OWNER, offset=2, length=3) == b"gun"
        (folder / "end").write_text("75")
        assert await until_report(site, job, Finished) == Finished(succeeded=False, exit_code=75)
        await site.delete(job, OWNER)
        assert not folder.exists()
    finally:
        await site.close()


async def _wrote(site: Site, job: str) -> bool:
    return (await site.sizes(job, OWNER)).get("stdout", 0) > 5


@BOTH_WAYS
async def test_a_running_job_is_aborted_and_one_nobody_knows_is_gone(real: RealSlurm, way: str, number: int) -> None:
    site = site_of(system(real, way))
    try:
        job = await site.create(description(number + 2), OWNER)
        await site.start(job, OWNER)
        await until_report(site, job, Running)
        await site.abort(job, OWNER)
        finished = await until_report(site, job, Finished)
        assert isinstance(finished, Finished)
        assert finished.words == "it was cancelled at the site"
        await site.abort(job, OWNER)
        await site.delete(job, OWNER)
        number, folder = job.split("@")
        other = f"{number}@{folder[:-8]}abcdefgh"
        assert isinstance(await site.report(other, OWNER), Gone)
        with pytest.raises(PermanentError, match="lost the job"):
            await site.start(other, OWNER)
    finally:
        await site.close()


@BOTH_WAYS
async def test_what_slurm_refuses_is_said_and_leaves_no_folder(real: RealSlurm, way: str, number: int) -> None:
    site = site_of(system(real, way))
    folder = real.jobs
    try:
        for asked in (description(number + 3, runtime_seconds=7200), description(number + 3, nodes=50)):
            with pytest.raises(PermanentError) as refused:
                await site.create(asked, OWNER)
            assert refused.value.code == "refused-by-slurm"
        with pytest.raises(PermanentError, match="Slurm at Real Slurm refused"):
            await site.create(msgspec.structs.replace(description(number + 3), partition="none"), OWNER)
        assert not list(folder.glob(f"{marks(number + 3).session}-*"))
    finally:
        await site.close()


@BOTH_WAYS
async def test_one_query_serves_all_who_wait(real: RealSlurm, way: str, number: int) -> None:
    site = site_of(system(real, way))
    asked = 0
    shell = site._calls  # type: ignore[attr-defined]
    call = shell.call

    async def counted(account: str, verb: str, /, **words: object) -> object:
        nonlocal asked
        asked += verb == "queue"
        return await call(account, verb, **words)

    shell.call = counted
    try:
        await asyncio.gather(
            *[site.report(f"{each}@{marks(number + 4).session}-abcdefgh", OWNER) for each in range(1, 200)]
        )
        assert asked <= 2
    finally:
        await site.close()


@BOTH_WAYS
async def test_a_job_that_was_killed_says_by_which_signal(real: RealSlurm, way: str, number: int) -> None:
    site = site_of(system(real, way))
    try:
        job = await site.create(description(number + 5, "kill -KILL $$\n"), OWNER)
        await site.start(job, OWNER)
        finished = await until_report(site, job, Finished)
        assert isinstance(finished, Finished)
        assert (finished.exit_code, finished.words) == (None, "it ended by signal 9")
        await site.delete(job, OWNER)
    finally:
        await site.close()


async def test_the_key_opens_nothing_but_the_command(real: RealSlurm) -> None:
    async with asyncssh.connect(
        "127.0.0.1",
        real.sshd.port,
        username=ACCOUNT,
        client_keys=[str(real.service_key)],
        known_hosts=str(real.sshd.known_hosts),
        config=None,
    ) as connection:
        said = await connection.run("cat /etc/passwd", input='{"verb": "shell"}')
        assert "bad-request" in str(said.stdout)
        assert "root:" not in str(said.stdout)
        with pytest.raises(asyncssh.ChannelOpenError):
            await connection.open_connection("127.0.0.1", real.ports["ctld"])
        for request in (
            '{"verb": "read", "folder": "../..", "name": "x", "offset": 0, "length": 1}',
            '{"verb": "abort", "job": "1; id", "folder": "01k00000000-abcdefgh"}',
            "not JSON",
        ):
            assert "bad-request" in str((await connection.run("", input=request)).stdout)


async def test_a_connection_that_was_killed_is_made_again(real: RealSlurm) -> None:
    site = site_of(system(real))
    try:
        await site.certificate(fresh=True)
        real.sshd.kill_connections()
        await eventually(lambda: _answers(site))
    finally:
        await site.close()


async def _answers(site: Site) -> bool:
    try:
        await site.certificate(fresh=True)
    except TransientError:
        return False
    return True
