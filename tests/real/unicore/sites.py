"""The two sites one scenario file is for: UNICORE/X itself and the stand-in. Each says how an operator handles it."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Protocol

import httpx

from emulators.unicore_site.configuration import Queue, SiteConfiguration, SiteUser
from emulators.unicore_site.faults import Fault
from emulators.unicore_site.site import UnicoreSite
from tests.real.unicore.configuration import ISSUER, User
from tests.real.unicore.server import UnicoreX
from tests.support.site import delegation_key

ADA, BEN, OPERATOR = "CN=Ada", "CN=Ben", "CN=Operator"
USERS = [
    User(ADA, ["ada1", "ada2"], ["ztrain", "zbridge"], "secret-of-ada"),
    User(BEN, ["ben1"], ["ztrain"], "secret-of-ben"),
    User(OPERATOR, ["operator"], [], "secret-of-operator", role="admin"),
]


class Site(Protocol):
    """What a scenario asks of a site beside its REST API."""

    name: str
    ca_file: Path
    delegation_key_file: Path

    @property
    def base_url(self) -> str:
        """The base of the REST API."""

    async def restart(self) -> None:
        """Ends it as a power cut does and starts it again, at the same address."""

    async def take_no_jobs(self, message: str) -> None:
        """The operator closes it for new jobs."""

    async def take_jobs(self) -> None:
        """The operator opens it again."""

    def directory(self, job: str) -> Path:
        """The working directory of a job."""


class Real:
    """UNICORE/X."""

    name = "real"

    def __init__(self, server: UnicoreX) -> None:
        self.server = server
        self.ca_file, self.delegation_key_file = server.trust.ca_file, server.trust.delegation_key_file

    @property
    def base_url(self) -> str:
        """See Site."""
        return self.server.base_url

    async def restart(self) -> None:
        """See Site."""
        # In this thread: the server dies with the thread that starts it, and one of a pool ends with its test.
        self.server.kill()
        self.server.start()

    async def take_no_jobs(self, message: str) -> None:
        """See Site."""
        await self._toggle(message=message)

    async def take_jobs(self) -> None:
        """See Site."""
        await self._toggle()

    async def _toggle(self, **words: str) -> None:
        context = ssl.create_default_context(cafile=str(self.ca_file))
        url = self.base_url.replace("/rest/core", "/rest/admin/actions/ToggleJobSubmission")
        async with httpx.AsyncClient(verify=context, auth=("operator", "secret-of-operator")) as http:
            answer = await http.post(url, json=words, headers={"Accept": "application/json"})
        assert answer.json()["success"], answer.text

    def directory(self, job: str) -> Path:
        """See Site."""
        return self.server.jobs / job


class Emulated:
    """The stand-in, in this process, with the delays of a site that does its work in the background."""

    name = "emulated"

    def __init__(self, folder: Path, userinfo_url: str) -> None:
        self.delegation_key_file, public = delegation_key(folder)
        self._configuration = SiteConfiguration(
            folder=str(folder / "site"),
            queues={"batch": Queue(gpus_per_node=4), "devel": Queue(max_nodes=1, max_runtime_seconds=7200)},
            queue_seconds=0.05,
            preparing_seconds=0.2,
            users=[SiteUser(dn=each.dn, uids=each.uids, groups=each.groups, password=each.password) for each in USERS],
            trusted={ISSUER: str(public)},
            userinfo_url=userinfo_url,
        )
        self.emulator = UnicoreSite(self._configuration)
        self.ca_file = self.emulator.ca_file

    @property
    def base_url(self) -> str:
        """See Site."""
        return self.emulator.base_url

    async def restart(self) -> None:
        """See Site."""
        port = int(self.base_url.split(":")[2].split("/")[0])
        await self.emulator.__aexit__()
        changed = {name: getattr(self._configuration, name) for name in self._configuration.__struct_fields__}
        self.emulator = UnicoreSite(SiteConfiguration(**{**changed, "port": port}))
        await self.emulator.__aenter__()

    async def take_no_jobs(self, message: str) -> None:
        """See Site."""
        self.emulator.faults.planned.append(Fault(kind="submission-disabled", method="POST", path="/jobs$", times=1000))
        self.emulator.faults.message = message

    async def take_jobs(self) -> None:
        """See Site."""
        self.emulator.faults.planned.clear()

    def directory(self, job: str) -> Path:
        """See Site."""
        return self.emulator.store.working_directory(self.emulator.store.jobs[job])
