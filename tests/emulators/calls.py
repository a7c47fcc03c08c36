"""Calls to an emulated site with its real protocol, as the users that `tests/support/site.py` lets in."""

from __future__ import annotations

import asyncio
import shlex
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
from pyunicore.credentials import JWTToken

from emulators.unicore_site.configuration import Queue, SiteConfiguration, SiteUser
from emulators.unicore_site.site import UnicoreSite
from tests.support.site import ADA, ISSUER, delegation_key

BEN = "CN=Ben"

SLEEP = {"Executable": "/bin/sleep", "Arguments": ["60"], "Resources": {"Queue": "batch"}, "Tags": ["one", "session-1"]}
INERT = SLEEP | {"haveClientStageIn": "true"}
RAW = {"Accept": "application/octet-stream"}


@asynccontextmanager
async def unicore_site(folder: Path, **changes: object) -> AsyncIterator[UnicoreSite]:
    """A site whose trusted delegation key is `folder/delegation.pem`; every setting may be changed."""
    if not (folder / "delegation.pem").exists():
        delegation_key(folder)
    settings: dict[str, Any] = {
        "folder": str(folder / "site"),
        "queues": {"batch": Queue(gpus_per_node=4), "devel": Queue(max_nodes=1, max_runtime_seconds=7200)},
        "queue_seconds": 0.05,
        "preparing_seconds": 0.0,
        "users": [
            SiteUser(dn=ADA, uids=["ada1", "ada2"], groups=["ztrain"], password="secret-of-ada"),
            SiteUser(dn=BEN, uids=["ben1"], groups=["ztrain"], password="secret-of-ben"),
        ],
        "trusted": {ISSUER: str(folder / "delegation.pub.pem")},
    }
    async with UnicoreSite(SiteConfiguration(**settings | changes)) as site:
        yield site


def delegated(folder: Path, subject: str = ADA, issuer: str = ISSUER, etd: bool = True) -> str:
    key = (folder / "delegation.pem").read_text()
    return str(JWTToken(subject, issuer, key, algorithm="EdDSA", etd=etd).get_auth_header())


def client(site: UnicoreSite, folder: Path, **headers: str) -> httpx.AsyncClient:
    everything = {"Authorization": delegated(folder), "Accept": "application/json", **headers}
    verify = ssl.create_default_context(cafile=str(site.ca_file)) if site.configuration.tls else True
    return httpx.AsyncClient(
        base_url=site.base_url, headers=everything, verify=verify, event_hooks={"request": [_octets]}
    )


async def _octets(request: httpx.Request) -> None:
    if request.method == "PUT":
        request.headers.setdefault("Content-Type", "application/octet-stream")


def script(words: str, **more: object) -> dict[str, object]:
    return {"Executable": "/bin/sh", "Arguments": ["-c", shlex.quote(words)], "Resources": {"Queue": "batch"}, **more}


async def submit(http: httpx.AsyncClient, description: object) -> str:
    answer = await http.post("/jobs", json=description)
    assert answer.status_code == 201, answer.text
    return answer.headers["Location"]


async def status(http: httpx.AsyncClient, job: str, *wanted: str) -> dict[str, Any]:
    async with asyncio.timeout(20):
        while True:
            found: dict[str, Any] = (await http.get(job)).json()
            if found["status"] in wanted:
                return found
            await asyncio.sleep(0.02)


async def content(http: httpx.AsyncClient, job: str, name: str) -> str:
    work = (await http.get(job)).json()["_links"]["workingDirectory"]["href"]
    return (await http.get(f"{work}/files/{name}", headers=RAW)).text


async def content_once_there(http: httpx.AsyncClient, job: str, name: str) -> str:
    async with asyncio.timeout(20):
        while True:
            work = (await http.get(job)).json()["_links"]["workingDirectory"]["href"]
            answer = await http.get(f"{work}/files/{name}", headers=RAW)
            if answer.status_code == 200 and answer.text:
                return answer.text
            await asyncio.sleep(0.02)
