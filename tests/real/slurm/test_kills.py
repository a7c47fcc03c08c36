"""Starts at a real Slurm site while what serves them is killed: each session has one job, and in the end nothing."""

from __future__ import annotations

import asyncio
import random
import signal
from pathlib import Path

import pytest

from schemas.lifecycle import Submitted
from services._launching.server_start import SECRETS_FILE
from tests.real.slurm.conftest import REAL
from tests.real.slurm.launching import Start, end_of, launcher, runs
from tests.real.slurm.site import RealSlurm
from tests.services.hpc_launcher.stage import Stage

pytestmark = REAL
STARTS, KILLS = 5, 8


@pytest.mark.parametrize("way", ["ssh", "rest"])
async def test_starts_outlive_kills_with_one_job_each(real: RealSlurm, tmp_path: Path, way: str) -> None:
    chance = random.Random(5)
    async with launcher(real, tmp_path, way=way) as stage:
        stories = [Start() for _ in range(STARTS)]
        for story in stories:
            await stage.admit(story)
        async with asyncio.timeout(90):
            await asyncio.gather(kill_in_the_midst(real, chance, way), drive(stage, stories))
        for story in stories:
            await runs(stage, story)
        expected = sorted(f"farlab-{story.session}" for story in stories)
        async with asyncio.timeout(30):
            while sorted(real.slurm("squeue", "--noheader", "--format=%j").decode().split()) != expected:
                # An answer that was lost may leave a held job.
                await stage.app.reconcilers[stage.system.name].reconcile()
        for story in stories:
            assert "SessionEnded" not in await stage.events(story)
            await stage.append(story.stop())
        for story in stories:
            assert (await end_of(stage, story)).outcome == "stopped"
        await stage.log.settled()
        left = [folder for story in stories for folder in real.jobs.glob(f"{story.session}-*")]
        # Where slurmrestd dies amid a submission nobody knows whether a job exists: its folder stays, without secrets.
        assert [folder for folder in left if way == "ssh" or (folder / SECRETS_FILE).exists()] == []
        assert await stage.bucket.keys() == []


async def kill_in_the_midst(real: RealSlurm, chance: random.Random, way: str) -> None:
    """Kills all connections, or slurmrestd itself, as the next request, or one of the next few, begins."""

    def begun() -> int:
        if way == "rest":
            return (real.root / "slurmrestd.log").read_text(errors="replace").count("operations_router: ")
        return real.sshd.times_logged("Starting session: forced-command")

    for _ in range(KILLS):
        awaited = begun() + chance.randint(1, 4)
        while begun() < awaited:
            await asyncio.sleep(0.005)
        real.sshd.kill_connections()
        if way == "rest":
            real.stop("slurmrestd", signal.SIGKILL)
            real.slurmrestd()


async def drive(stage: Stage, stories: list[Start]) -> None:
    """Lets the delays of steps that failed be over, until every job is at the scheduler."""
    while not all([isinstance(await stage.state(story), Submitted) for story in stories]):
        await stage.log.settled()
        stage.log.redeliver("hpc-launcher")
