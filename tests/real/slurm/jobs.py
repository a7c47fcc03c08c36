"""Jobs for the tests of this folder, and waiting for what becomes of them. Makes none."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import msgspec

from schemas.base import HubName, SessionId
from schemas.session import Resources
from services.hpc_launcher.ports import JobDescription, Marks, Owner, Site
from tests.real.slurm.site import ACCOUNT

OWNER = Owner(ACCOUNT, ACCOUNT, "")
SERVES = "echo begun; echo oops >&2; while [ ! -e end ]; do sleep 0.1; done; exit $(cat end)\n"


def marks(number: int) -> Marks:
    """The marks of the session of this number."""
    return Marks("test", HubName("hub"), SessionId(f"01k{number:023d}"))


def description(number: int, script: str = SERVES, **resources: int) -> JobDescription:
    """A job that runs until its folder has a file named `end`."""
    return JobDescription(
        name="farlab",
        marks=marks(number),
        executable="/bin/bash",
        arguments=("start.sh",),
        files={"start.sh": script},
        partition="batch",
        project="",
        resources=msgspec.structs.replace(Resources(runtime_seconds=600), **resources),
    )


async def until_report(site: Site, job: str, kind: type) -> object:
    """The report on the job once it is of this kind."""
    async with asyncio.timeout(30):
        while not isinstance(report := await site.report(job, OWNER), kind):
            await asyncio.sleep(0.1)
    return report


async def eventually(holds: Callable[[], Awaitable[bool]]) -> None:
    """Waits for a condition."""
    async with asyncio.timeout(30):
        while not await holds():
            await asyncio.sleep(0.1)
