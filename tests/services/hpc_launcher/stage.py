"""A launcher on the log in memory, before an emulated UNICORE site over HTTPS. Omits hub, accounts and tunneler."""

from __future__ import annotations

import asyncio
import secrets
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path

from aiohttp import web
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key

from emulators.unicore_site.configuration import Queue, SiteConfiguration, SiteUser
from emulators.unicore_site.site import UnicoreSite
from schemas.base import SystemName
from schemas.lifecycle import SessionState
from schemas.secrets import JobSecrets
from schemas.session import SessionEvent
from schemas.subjects import Subjects
from services._runtime.identity import Stamp
from services._runtime.memory import MemoryBucket, MemoryLog
from services._runtime.service import utc_now
from services._runtime.systems import DirectReach, Job, Partition, System
from services._runtime.systems import UnicoreSite as UnicoreSiteSettings
from services._runtime.vault import Vault, make_keys
from services._runtime.view import placed
from services.hpc_launcher.app import LauncherApp, site_of
from services.hpc_launcher.ports import Site
from services.hpc_launcher.settings import HpcLauncherSettings
from tests.support.samples import Story, stamp

SUBJECTS = Subjects()
ISSUER = "CN=Farlab launcher"
NODE = "127.30.0.21"
CANARY = "canary-" + secrets.token_hex(8)
SECONDS = 60.0


def keys(folder: Path) -> tuple[Path, Path]:
    """A delegation key (0600) and its public half."""
    key = generate_private_key(SECP256R1())
    private, public = folder / "delegation.pem", folder / "delegation.pub"
    private.touch(mode=0o600)
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    public.write_bytes(
        key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    return private, public


@asynccontextmanager
async def emulated_site(
    folder: Path, *, queue_seconds: float = 0.0, userinfo_url: str = ""
) -> AsyncIterator[tuple[UnicoreSite, Path]]:
    """A running site with ada, and the key that may act for her."""
    private, public = keys(folder)
    configuration = SiteConfiguration(
        folder=str(folder / "site"),
        queues={"batch": Queue(max_nodes=4, gpus_per_node=4), "devel": Queue(max_nodes=1, max_runtime_seconds=7200)},
        compute_nodes=[NODE],
        queue_seconds=queue_seconds,
        preparing_seconds=0.0,
        path=[str(Path(sys.executable).parent)],
        users=[SiteUser(dn="CN=Ada", uids=["ada1"], groups=["ztrain"]), SiteUser(dn="CN=Ben", uids=["ben1"])],
        trusted={ISSUER: str(public)},
        userinfo_url=userinfo_url,
    )
    async with UnicoreSite(configuration) as site:
        yield site, private


def system_at(site: UnicoreSite, key: Path, **job: object) -> System:
    """The catalogue's entry for an emulated site, with short intervals."""
    return System(
        title="Demo HPC",
        name=SystemName("demo-hpc"),
        site=UnicoreSiteSettings(
            url=site.base_url,
            issuer_dn=ISSUER,
            delegation_key_file=str(key),
            ca_file=str(site.ca_file),
            requests_per_second=500,
            timeout_seconds=5,
            poll_seconds=0.05,
            longest_poll_seconds=0.2,
        ),
        reach=DirectReach(networks=["127.30.0.0/24"]),
        job=Job(
            **{"python": sys.executable, "node_address": "$SLURMD_NODENAME", "ports": (40_000, 49_000), **job}  # type: ignore[arg-type]
        ),
        partitions={
            "batch": Partition(max_nodes=4, cores_per_node=16, gpus_per_node=4),
            "devel": Partition(max_runtime_seconds=7200),
        },
    )


class Stage:
    """One launcher and what it stands on."""

    def __init__(
        self, system: System, folder: Path, site: Site | None = None, now: Callable[[], datetime] = utc_now
    ) -> None:
        self.log, self.leases, self.bucket = MemoryLog(), MemoryBucket(), MemoryBucket()
        self.keys = folder / "keys"
        make_keys(self.keys)
        self.vault = Vault(self.bucket, self.keys, "hpc-launcher")
        self.system, self.site, self.now = system, site, now
        self.app = self.launcher()

    def launcher(self, replica: str = "one") -> LauncherApp:
        """A launcher on this stage; another one is another replica, or the next life of the first."""
        return LauncherApp(
            installation="farlab",
            log=self.log,
            leases=self.leases,
            vault=self.vault,
            subjects=SUBJECTS,
            stamp=Stamp("farlab/hpc-launcher", b"0123456789abcdef", self.now),
            systems={self.system.name: self.system},
            sites={self.system.name: self.site or site_of(self.system)},
            settings=HpcLauncherSettings(replica=replica, reconcile_seconds=3600),
        )

    async def append(self, *events: SessionEvent) -> None:
        """Appends what other services would."""
        for event in events:
            scope = SUBJECTS.session(event.session)
            history = await self.log.history("SESSIONS", scope)
            after = history[-1].sequence if history else 0
            stamped = stamp("hub", self.now)(event, after=after, cause=None)
            await self.log.append("SESSIONS", SUBJECTS.session_event(stamped), stamped, scope=scope, after=after)

    async def admit(self, story: Story, **environment: str) -> None:
        """A start as the hub and accounts leave it to the launcher."""
        await self.vault.put(story.session, "hpc-launcher", job_secrets(**environment))
        await self.append(story.requested(), story.admitted())

    async def state(self, story: Story) -> SessionState:
        """The session's state by the log."""
        return placed(await self.log.history("SESSIONS", SUBJECTS.session(story.session))).state

    async def events(self, story: Story) -> list[str]:
        """The names of the session's events."""
        return [
            type(each.message).__name__ for each in await self.log.history("SESSIONS", SUBJECTS.session(story.session))
        ]

    async def said(self, story: Story, event: str) -> None:
        """Waits until the session has an event of this name."""
        async with asyncio.timeout(SECONDS):
            while event not in await self.events(story):
                await asyncio.sleep(0)

    async def until(self, story: Story, state: type[SessionState]) -> SessionState:
        """Waits until the session is in a state."""
        reached = asyncio.Event()

        def look(*_: object) -> None:
            reached.set()

        self.app.sessions.view.watch(look)
        async with asyncio.timeout(SECONDS):
            while True:
                now = await self.state(story)
                if isinstance(now, state):
                    return now
                reached.clear()
                await reached.wait()


def job_secrets(**environment: str) -> JobSecrets:
    """Secrets as the hub seals them, with a canary among them."""
    return JobSecrets(
        environment={
            "JUPYTERHUB_API_TOKEN": CANARY,
            "JUPYTERHUB_API_URL": "",
            "JUPYTERHUB_SERVICE_PREFIX": "/user/ada/",
            "JUPYTERHUB_USER": "ada",
            "JUPYTERHUB_CLIENT_ID": "jupyterhub-user-ada",
            "JUPYTERHUB_BASE_URL": "/",
            **environment,
        },
        proof_key="ab" * 32,
    )


@asynccontextmanager
async def hub_api() -> AsyncIterator[str]:
    """What a user's server asks of the hub when it starts: the version. Omits everything else of a hub."""

    async def answer(_request: web.Request) -> web.Response:
        return web.json_response({"version": "6.1.1"})

    app = web.Application()
    app.router.add_route("*", "/hub/api{rest:.*}", answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
    await runner.setup()
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    await web.SockSite(runner, listener).start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/hub/api"
    finally:
        await runner.cleanup()
