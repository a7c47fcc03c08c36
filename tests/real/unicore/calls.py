"""Calls to a site under test with its real protocol, and the launcher's port to it. Knows no scenario."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
from pyunicore.credentials import JWTToken

from schemas.base import SystemName
from services._runtime.systems import DirectReach, Partition, System
from services._runtime.systems import UnicoreSite as UnicoreSiteSettings
from services.hpc_launcher import ports
from services.hpc_launcher.app import site_of
from services.hpc_launcher.ports import Finished, JobDescription, Marks, Owner
from tests.real.unicore.configuration import ISSUER
from tests.real.unicore.sites import ADA, Site
from tests.support.samples import HUB, Story, new_session

OWNER = Owner(ADA, "ada1", "ztrain")
RAW = {"Accept": "application/octet-stream"}
OCTETS = {"Content-Type": "application/octet-stream"}
SECONDS = 30.0
ENDED = ("SUCCESSFUL", "FAILED")


def delegated(site: Site, subject: str = ADA, *, issuer: str = ISSUER, lifetime: int = 300) -> str:
    """A launcher's header for a user."""
    key = site.delegation_key_file.read_text()
    return str(JWTToken(subject, issuer, key, algorithm="EdDSA", etd=True, lifetime=lifetime).get_auth_header())


def client(site: Site, authorization: str | None = None) -> httpx.AsyncClient:
    """Raw calls; as Ada's delegate unless told otherwise, and as nobody with an empty header."""
    header = delegated(site) if authorization is None else authorization
    headers = {"Accept": "application/json", **({"Authorization": header} if header else {})}
    verify = ssl.create_default_context(cafile=str(site.ca_file))
    return httpx.AsyncClient(base_url=site.base_url, headers=headers, verify=verify, timeout=SECONDS)


@asynccontextmanager
async def port(site: Site, **changes: object) -> AsyncIterator[ports.Site]:
    """The launcher's own port to the site."""
    made = site_of(system_at(site, **changes))
    try:
        yield made
    finally:
        await made.close()


def system_at(site: Site, **changes: object) -> System:
    """The catalogue's entry for the site, with short intervals."""
    settings: dict[str, Any] = {
        "url": site.base_url,
        "issuer_dn": ISSUER,
        "delegation_key_file": str(site.delegation_key_file),
        "ca_file": str(site.ca_file),
        "requests_per_second": 500,
        "timeout_seconds": 20,
        "poll_seconds": 0.1,
        "longest_poll_seconds": 0.5,
    }
    return System(
        title="The site",
        name=SystemName("demo-hpc"),
        site=UnicoreSiteSettings(**(settings | changes)),
        reach=DirectReach(networks=["127.0.0.0/8"]),
        partitions={"batch": Partition(max_nodes=4, gpus_per_node=4), "devel": Partition(max_runtime_seconds=7200)},
    )


def described(script: str = "true", *, runtime_seconds: int = 600, partition: str = "batch") -> JobDescription:
    """A job of a session of its own, as the launcher describes it."""
    request = Story(new_session()).requested()
    return JobDescription(
        name="farlab",
        marks=Marks("farlab", HUB, request.session),
        executable="/bin/bash",
        arguments=("start.sh",),
        files={"start.sh": script},
        partition=partition,
        project="ztrain",
        resources=type(request.resources)(nodes=1, runtime_seconds=runtime_seconds),
    )


def document(script: str = "true", **more: object) -> dict[str, object]:
    """A job description in UNICORE's words; inert unless told otherwise."""
    return {
        "Name": "farlab",
        "Executable": "/bin/bash",
        "Arguments": ["start.sh"],
        "Imports": [{"From": "inline://dummy", "To": "start.sh", "Data": script}],
        "Resources": {"Queue": "batch", "Nodes": "1", "Runtime": "600"},
        "Umask": "077",
        "haveClientStageIn": "true",
        **more,
    }


async def submit(http: httpx.AsyncClient, description: object) -> str:
    """Makes a job; its address."""
    answer = await http.post("/jobs", json=description)
    assert answer.status_code == 201, answer.text
    return str(answer.headers["Location"])


async def status(http: httpx.AsyncClient, job: str, *wanted: str) -> dict[str, Any]:
    """The job's properties once its status is one of the wanted."""
    found: dict[str, Any] = {}

    async def there() -> bool:
        found.clear()
        found.update((await http.get(job)).json())
        return found["status"] in wanted

    await until(there)
    return found


async def prepared(http: httpx.AsyncClient, job: str) -> str:
    """The address of the job's directory once it is there and the job waits for its start."""
    work = str((await http.get(job)).json()["_links"]["workingDirectory"]["href"])

    async def there() -> bool:
        return (await http.get(f"{work}/files/start.sh", headers=RAW)).status_code == 200

    await until(there)
    await status(http, job, "READY")
    return work


async def ended(site: ports.Site, job: str, owner: Owner = OWNER) -> Finished:
    """The port's report once the job is over."""
    async with asyncio.timeout(SECONDS):
        while not isinstance(report := await site.report(job, owner), Finished):
            await asyncio.sleep(0.05)
    return report


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Waits for a condition, with a bound."""
    async with asyncio.timeout(SECONDS):
        while not await condition():
            await asyncio.sleep(0.05)
