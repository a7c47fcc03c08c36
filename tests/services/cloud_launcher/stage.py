"""A cloud launcher on the log in memory, before an emulated cluster. Omits hub, accounts and tunneler."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec

from emulators.cluster.cluster import Cluster
from emulators.cluster.configuration import Image as ClusterImage
from schemas.base import SystemName
from schemas.lifecycle import SessionState
from schemas.secrets import JobSecrets
from schemas.session import CloudPlace, SessionEvent, StartAdmitted, StartRequested, StopRequested
from schemas.subjects import Subjects
from services._runtime.clouds import CloudSystem, Flavour, Image, KubernetesSite, Pod
from services._runtime.identity import Stamp
from services._runtime.memory import MemoryBucket, MemoryLog
from services._runtime.service import utc_now
from services._runtime.systems import DirectReach
from services._runtime.vault import Vault, make_keys
from services._runtime.view import placed
from services.cloud_launcher.app import CloudLauncherApp, cluster_of
from services.cloud_launcher.ports import Cluster as ClusterPort
from services.cloud_launcher.settings import CloudLauncherSettings
from tests.services.hpc_launcher.stage import job_secrets
from tests.support import samples
from tests.support.kubernetes_cluster import emulated_cluster

SUBJECTS = Subjects()
CLOUD = SystemName("demo-cloud")
SECONDS = 60.0
REDELIVERED_EVERY = 50
"""Looks between two redeliveries: the log in memory has no clock, so that whoever waits for it is the clock."""
JUPYTER, QUICK = "registry.invalid/jupyter:1", "registry.invalid/quick:1"
ANSWERING = (
    "from http.server import BaseHTTPRequestHandler, HTTPServer\n"
    "import os\n"
    "class Handler(BaseHTTPRequestHandler):\n"
    "    def do_GET(self):\n"
    "        self.send_response(200); self.end_headers()\n"
    "HTTPServer((os.environ['FARLAB_ADDRESS'], 8888), Handler).serve_forever()\n"
)
"""A server that answers a kubelet's probe and nothing else, in place of JupyterLab: it is there in a moment."""


class Story(samples.Story):
    """The events of one session on a cloud."""

    def __init__(self, system: SystemName = CLOUD, user: str = "ada") -> None:
        super().__init__(user=user)
        self.system = system

    def requested(self, runtime_seconds: int = 3600, partition: str = "small") -> StartRequested:
        return msgspec.structs.replace(
            super().requested(runtime_seconds),
            system=self.system,
            place=CloudPlace(flavour=partition),
            deadline=datetime.now(UTC) + timedelta(hours=24),
        )

    def admitted(self) -> StartAdmitted:
        return msgspec.structs.replace(super().admitted(), system=self.system, site_identity="")

    def stop(self) -> StopRequested:
        return msgspec.structs.replace(super().stop(), system=self.system)


@asynccontextmanager
async def cluster_with_images(folder: Path, **changes: Any) -> AsyncIterator[Cluster]:
    """A cluster with the namespace `farlab` and this machine's Python in its images."""
    images = {JUPYTER: ClusterImage(), QUICK: ClusterImage(), **changes.pop("images", {})}
    path = [str(Path(sys.executable).parent)]
    async with emulated_cluster(folder, images=images, namespaces=["farlab"], path=path, **changes) as cluster:
        yield cluster


def cloud_at(kubeconfig: Path, *, image: str = QUICK, pod: dict[str, Any] | None = None, **changes: Any) -> CloudSystem:
    """The catalogue's entry for an emulated cluster, with short intervals and a server that is there in a moment."""
    quick = {"name": "server", "command": ["python3", "-c", ANSWERING], "args": None}
    settings: dict[str, Any] = {
        "title": "Demo Cloud",
        "name": CLOUD,
        "site": KubernetesSite(kubeconfig=str(kubeconfig), timeout_seconds=5, silent_seconds=2),
        "reach": DirectReach(networks=["127.0.0.0/8"]),
        "pod": Pod(**{"grace_seconds": 2, "patch": {"spec": {"containers": [quick]}}, **(pod or {})}),
        "flavours": {"small": Flavour(cpu=1, memory_bytes=2**30), "home": Flavour(storage_bytes=2**30)},
        "images": {"standard": Image(image=image)},
    }
    return CloudSystem(**settings | changes)


class Stage:
    """One launcher and what it stands on."""

    def __init__(
        self,
        cloud: CloudSystem,
        folder: Path,
        cluster: ClusterPort | None = None,
        now: Callable[[], datetime] = utc_now,
        others: Sequence[CloudSystem] = (),
    ) -> None:
        """`others` are further clouds of the same launcher."""
        self.log, self.leases, self.bucket, self.activity = MemoryLog(), MemoryBucket(), MemoryBucket(), MemoryBucket()
        self.keys = folder / "keys"
        make_keys(self.keys)
        self.vault = Vault(self.bucket, self.keys, "cloud-launcher")
        self.cloud, self.now = cloud, now
        self.clouds = {each.name: each for each in (cloud, *others)}
        self.clusters = {} if cluster is None else {cloud.name: cluster}
        self.app = self.launcher()

    def launcher(self, replica: str = "one") -> CloudLauncherApp:
        """A launcher on this stage; another one is another replica, or the next life of the first."""
        return CloudLauncherApp(
            installation="farlab",
            log=self.log,
            leases=self.leases,
            activity=self.activity,
            vault=self.vault,
            subjects=SUBJECTS,
            stamp=Stamp("farlab/cloud-launcher", b"0123456789abcdef", self.now),
            clouds=self.clouds,
            clusters={
                name: self.clusters.get(name) or cluster_of(each, "farlab") for name, each in self.clouds.items()
            },
            settings=CloudLauncherSettings(replica=replica, reconcile_seconds=3600, lifetime_seconds=0.1),
        )

    async def append(self, *events: SessionEvent) -> None:
        """Appends what other services would."""
        for event in events:
            scope = SUBJECTS.session(event.session)
            history = await self.log.history("SESSIONS", scope)
            after = history[-1].sequence if history else 0
            stamp = Stamp("hub", b"0123456789abcdef0123456789abcdef", self.now)
            stamped = stamp(event, after=after, cause=None)
            await self.log.append("SESSIONS", SUBJECTS.session_event(stamped), stamped, scope=scope, after=after)

    async def admit(self, story: Story, request: StartRequested | None = None, **environment: str) -> None:
        """A start as the hub and accounts leave it to the launcher."""
        await self.seal(story, job_secrets(**environment))
        await self.append(request or story.requested(), story.admitted())

    async def seal(self, story: Story, secrets: JobSecrets) -> None:
        """The secrets of a session, as the hub seals them."""
        await self.vault.put(story.session, "cloud-launcher", secrets)

    async def events(self, story: Story) -> list[SessionEvent]:
        """The session's events."""
        history = await self.log.history("SESSIONS", SUBJECTS.session(story.session))
        return [each.message for each in history if isinstance(each.message, SessionEvent)]

    async def state(self, story: Story) -> SessionState:
        """The session's state by the log."""
        return placed(await self.log.history("SESSIONS", SUBJECTS.session(story.session))).state

    async def words(self, story: Story) -> str:
        """Everything the session's events say, in one text."""
        return " | ".join(
            str(getattr(each, name))
            for each in await self.events(story)
            for name in ("words", "message", "reason", "remedy", "job_status")
            if getattr(each, name, "")
        )

    async def until(self, story: Story, state: Any) -> Any:
        """Waits until the session is in a state."""
        async with asyncio.timeout(SECONDS):
            looks = 0
            while not isinstance(now := await self.state(story), state):
                await asyncio.sleep(0.01)
                looks += 1
                if looks % REDELIVERED_EVERY == 0:
                    self.log.redeliver("cloud-launcher")
        return now

    async def said(self, story: Story, words: str) -> str:
        """Waits until the session's events say something."""
        async with asyncio.timeout(SECONDS):
            while words not in (said := await self.words(story)):
                await asyncio.sleep(0.01)
        return said


def left(cluster: Cluster) -> list[str]:
    """What the cluster has of any session; users' volumes are kept."""
    kinds = ("pods", "services", "secrets", "networkpolicies")
    return [f"{kind}/{each['metadata']['name']}" for kind in kinds for each in cluster.store.every(kind)]


async def until_clean(cluster: Cluster) -> None:
    """Waits until nothing of any session is left. Raises TimeoutError."""
    async with asyncio.timeout(SECONDS):
        while left(cluster):
            await asyncio.sleep(0.02)
