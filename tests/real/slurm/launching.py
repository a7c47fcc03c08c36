"""A launcher on the log in memory, before the real Slurm site, and starts for it. Omits hub, accounts and tunneler."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import msgspec

from schemas.base import SystemName
from schemas.lifecycle import Ended, Submitted, WithStatus
from schemas.session import HpcPlace, Running, SessionEnded, StartRequested
from services._runtime.service import utc_now
from services._runtime.systems import Job
from tests.real.slurm.site import ACCOUNT, RealSlurm, system
from tests.services.hpc_launcher.stage import SUBJECTS, Stage
from tests.support.samples import SYSTEM, Story


class Start(Story):
    """A start on the real site."""

    def __init__(self, partition: str = "batch") -> None:
        super().__init__()
        self.partition = partition

    def requested(self, runtime_seconds: int = 3600, partition: str = "") -> StartRequested:
        """The start, at the account of these tests."""
        place = HpcPlace(account=ACCOUNT, project="ztrain", partition=partition or self.partition)
        deadline = utc_now() + timedelta(hours=1)
        return msgspec.structs.replace(super().requested(runtime_seconds), place=place, deadline=deadline)


@contextlib.asynccontextmanager
async def launcher(
    real: RealSlurm,
    folder: Path,
    prologue: str = "exec sleep 600",
    timeout_seconds: float = 20.0,
    way: str = "ssh",
) -> AsyncIterator[Stage]:
    """A launcher at the site, whose jobs do this and nothing else."""
    described = system(real, way)
    site = msgspec.structs.replace(described.site, timeout_seconds=timeout_seconds, longest_poll_seconds=0.5)
    job = Job(prologue=[prologue])
    stage = Stage(msgspec.structs.replace(described, name=SystemName(SYSTEM), site=site, job=job), folder)
    await stage.app.start()
    try:
        yield stage
    finally:
        await stage.app.close()


async def history(stage: Stage, story: Story) -> list[object]:
    """The session's events."""
    return [each.message for each in await stage.log.history("SESSIONS", SUBJECTS.session(story.session))]


async def runs(stage: Stage, story: Story) -> None:
    """Waits until the log says that the job runs."""
    async with asyncio.timeout(40):
        while True:
            state = await stage.state(story)
            if isinstance(state, WithStatus) and isinstance(state.job_status, Running):
                return
            await asyncio.sleep(0.05)


async def again(stage: Stage, story: Story) -> None:
    """Lets the delay of a step that failed be over, until the job is at the scheduler."""
    async with asyncio.timeout(40):
        while not isinstance(await stage.state(story), Submitted):
            stage.log.redeliver("hpc-launcher")
            await stage.log.settled()


async def end_of(stage: Stage, story: Story) -> SessionEnded:
    """Waits for the session's end."""
    state = await stage.until(story, Ended)
    assert isinstance(state, Ended)
    return state.end
