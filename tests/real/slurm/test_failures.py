"""What fails at a real Slurm site and its login node, and what the launcher makes of it."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
from collections.abc import AsyncIterator
from time import monotonic

import msgspec
import pytest

from services._runtime.errors import PermanentError, TransientError
from services.hpc_launcher.app import site_of
from services.hpc_launcher.ports import Site, Unknown
from tests.real.slurm.conftest import REAL
from tests.real.slurm.disks import small_disk
from tests.real.slurm.jobs import OWNER, description, eventually, marks
from tests.real.slurm.site import ACCOUNT, RealSlurm, system

pytestmark = REAL


@contextlib.asynccontextmanager
async def adapter(real: RealSlurm, **changes: object) -> AsyncIterator[Site]:
    described = system(real)
    site = site_of(msgspec.structs.replace(described, site=msgspec.structs.replace(described.site, **changes)))
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


async def test_more_calls_than_sshd_lets_a_connection_have_wait_for_each_other(real: RealSlurm) -> None:
    def sign_ins() -> int:
        return real.sshd.times_logged(f"Accepted publickey for {ACCOUNT} ")

    async with adapter(real, concurrent_requests=16) as site:
        before = sign_ins()
        await asyncio.gather(*[site.certificate(fresh=True) for _ in range(16)])
        assert sign_ins() == before + 1


async def test_a_login_node_that_went_silent_is_waited_for_once(real: RealSlurm) -> None:
    async with adapter(real, connect_seconds=0.5, timeout_seconds=2.0) as site:
        await site.certificate(fresh=True)
        real.sshd.freeze()
        try:
            for _ in range(2):  # on the connection that was there, then for a new one
                with pytest.raises(TransientError):
                    await site.certificate(fresh=True)
            begun = monotonic()
            for account in (ACCOUNT, "somebody"):
                with pytest.raises(TransientError, match="says nothing") as refused:
                    await site.create(description(11), msgspec.structs.replace(OWNER, account=account))
                assert 0 < (refused.value.delay_seconds or 0) <= 1.5
            assert monotonic() - begun < 0.2
            assert site.troubles() == ["Real Slurm: its login node takes connections and says nothing"]
        finally:
            real.sshd.thaw()
        await eventually(lambda: answers(site))
        assert site.troubles() == []


async def test_beside_a_silent_login_node_another_serves(real: RealSlurm) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        nodes = [f"127.0.0.1:{silent.getsockname()[1]}"] * 3 + [real.sshd.node]
        async with adapter(real, connect_seconds=0.5, login_nodes=nodes) as site:
            for _ in range(3):
                await site.certificate(fresh=True)
                real.sshd.kill_connections()
                await eventually(lambda: answers(site))


async def test_without_munge_a_start_waits_and_a_job_is_unknown(real: RealSlurm) -> None:
    async with adapter(real) as site:
        real.stop("munge")
        try:
            with pytest.raises(TransientError, match=r"not trusted \(munge\)"):
                await site.create(description(12), OWNER)
            report = await site.report("1@01k00000000-abcdefgh", OWNER)
            assert isinstance(report, Unknown)
            assert "not trusted (munge)" in report.evidence
        finally:
            real.munge("munge")
        await eventually(lambda: answers(site))
        job = await site.create(description(12), OWNER)
        await site.delete(job, OWNER)


async def test_with_another_key_of_munge_a_start_waits(real: RealSlurm) -> None:
    real.trust_on_login_node(real.munge("other"))
    try:
        async with adapter(real) as site:
            # All that Slurm 22.05 says of it: the controller hangs up on who it does not believe. Later ones tell.
            with pytest.raises(TransientError, match=r"Zero Bytes were transmitted|not trusted \(munge\)"):
                await site.create(description(13), OWNER)
            assert isinstance(await site.report("1@01k00000000-abcdefgh", OWNER), Unknown)
    finally:
        real.trust_on_login_node(real.root / "munge" / "munge.sock")
        real.stop("other")
    for folder in real.jobs.glob(f"{marks(13).session}-*"):  # kept for a job of which nobody knows whether it exists
        shutil.rmtree(folder)
    assert b"farlab-01k" not in real.slurm("squeue", "--noheader", "--format=%j")


async def test_an_account_the_partition_does_not_take_is_said_in_slurms_words(real: RealSlurm) -> None:
    async with adapter(real) as site:
        asked = msgspec.structs.replace(description(14), partition="members", project="zother")
        with pytest.raises(PermanentError, match="Invalid account") as refused:
            await site.create(asked, OWNER)
        assert (refused.value.code, "project" in refused.value.remedy) == ("refused-by-slurm", True)
        assert not list(real.jobs.glob(f"{marks(14).session}-*"))


async def test_a_full_disk_is_told_and_leaves_no_job(real: RealSlurm) -> None:
    with small_disk(real):
        async with adapter(real) as site:
            job = await site.create(description(15), OWNER)
            with pytest.raises(PermanentError, match="Your home directory at Real Slurm is full") as full:
                await site.stage(job, {"secret.json": b"x" * 200_000}, OWNER)
            assert full.value.code == "disk-full"
            with pytest.raises(PermanentError, match="is full"):
                await site.create(description(16, "#" * 100_000), OWNER)
            await site.delete(job, OWNER)
            assert await site.sizes(job, OWNER) == {}
    assert not real.slurm("squeue", "--noheader").strip()


async def test_a_job_that_never_reached_the_controller_leaves_no_folder(real: RealSlurm) -> None:
    async with adapter(real) as site:
        await site.certificate(fresh=True)
        real.stop("slurmctld")
        try:
            with pytest.raises(TransientError, match="Slurm controller does not answer"):
                await site.create(description(18), OWNER)
            assert not list(real.jobs.glob(f"{marks(18).session}-*"))
        finally:
            real.controller()
        await eventually(lambda: queue_is_told(site))


async def queue_is_told(site: Site) -> bool:
    try:
        return await site.find(marks(18), OWNER) == []
    except TransientError:
        return False
