"""A launcher before a real Slurm site that fails: what it makes of the sessions, and what their users read."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import subprocess
from pathlib import Path

from schemas.session import ProgressReported, Unknown
from tests.real.machine import until
from tests.real.slurm.conftest import REAL
from tests.real.slurm.disks import small_disk
from tests.real.slurm.launching import Start, again, end_of, history, launcher, runs
from tests.real.slurm.site import RealSlurm

pytestmark = REAL


async def test_a_start_waits_for_munge_and_says_so_then_begins(real: RealSlurm, tmp_path: Path) -> None:
    async with launcher(real, tmp_path) as stage:
        story = Start()
        real.stop("munge")
        try:
            await stage.admit(story)
            await stage.said(story, "ProgressReported")
        finally:
            real.munge("munge")
        await again(stage, story)
        said = [each.message for each in await history(stage, story) if isinstance(each, ProgressReported)]
        assert "Waiting for the site: Real Slurm: Slurm on its login node is not trusted (munge)" in said[0]
        await stage.append(story.stop())
        assert (await end_of(stage, story)).outcome == "stopped"


async def test_jobs_that_the_site_ends_say_who_ended_them(real: RealSlurm, tmp_path: Path) -> None:
    node = socket.gethostname().split(".")[0]
    async with launcher(real, tmp_path) as stage:
        cancelled, failed = Start(), Start()
        for story in (cancelled, failed):
            await stage.admit(story)
            await runs(stage, story)
        real.slurm("scancel", f"--name=farlab-{cancelled.session}")
        end = await end_of(stage, cancelled)
        assert (end.outcome, "it was cancelled at the site" in end.reason) == ("failed", True)
        real.slurm("scontrol", "update", f"nodename={node}", "state=down", "reason=test")
        try:
            end = await end_of(stage, failed)
            assert (end.outcome, "a node it ran on failed" in end.reason) == ("failed", True)
        finally:
            with contextlib.suppress(subprocess.CalledProcessError):  # it may have come back by itself
                real.slurm("scontrol", "update", f"nodename={node}", "state=resume")
            real.until_idle()


async def test_what_cannot_be_started_says_why_and_leaves_nothing(real: RealSlurm, tmp_path: Path) -> None:
    async with launcher(real, tmp_path, "#" * 60_000) as stage:
        refused = Start("members")
        await stage.admit(refused)
        end = await end_of(stage, refused)
        assert end.outcome == "failed"
        assert "Invalid account or account/partition combination" in end.reason
        with small_disk(real):
            full = Start()
            await stage.admit(full)
            end = await end_of(stage, full)
            assert "Your home directory at Real Slurm is full" in end.reason
            assert (end.outcome, "Remove files" in end.remedy) == ("failed", True)
            await stage.log.settled()
        until(lambda: not real.slurm("squeue", "--noheader").strip(), real.logs)
        assert await stage.bucket.keys() == []


async def test_a_controller_that_is_killed_costs_nobody_a_server(real: RealSlurm, tmp_path: Path) -> None:
    saved = real.root / "state" / "job_state"
    async with launcher(real, tmp_path, timeout_seconds=3.0) as stage:
        story, late = Start(), Start()
        await stage.admit(story)
        await runs(stage, story)
        ran = saved.stat().st_mtime
        until(lambda: saved.stat().st_mtime > ran, real.logs)  # what Slurm has not written it may forget
        real.stop("slurmctld", signal.SIGKILL)
        try:
            await stage.admit(late)
            await stage.said(late, "ProgressReported")
            async with asyncio.timeout(60):
                while not isinstance(getattr(await stage.state(story), "job_status", None), Unknown):
                    await asyncio.sleep(0.05)
        finally:
            real.controller()
        await runs(stage, story)
        await again(stage, late)
        await runs(stage, late)
        assert "SessionEnded" not in await stage.events(story)
        assert len(list(real.jobs.glob(f"{late.session}-*"))) == 1
        for each in (story, late):
            await stage.append(each.stop())
            assert (await end_of(stage, each)).outcome == "stopped"
