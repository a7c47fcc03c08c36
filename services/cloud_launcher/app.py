"""The cloud launcher, put together: the one place that constructs its parts. Judges nothing itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from datetime import datetime
from functools import partial
from time import monotonic

import structlog
from aiohttp import web

from schemas.base import SessionId, SystemName
from schemas.subjects import Subjects
from services._launching.waiting import WaitingStarts
from services._runtime.api_server import api_of
from services._runtime.clouds import CloudSystem
from services._runtime.connection import Broker
from services._runtime.identity import Stamp
from services._runtime.leases import Lease
from services._runtime.log import Bucket, Log
from services._runtime.service import stamp_of, vault_of
from services._runtime.session_service import SessionService
from services._runtime.settings import Configuration
from services._runtime.tasks import end
from services._runtime.vault import Vault
from services.cloud_launcher.act import Actor
from services.cloud_launcher.chronicle import Chronicle
from services.cloud_launcher.decide import CONSUMES, Command, decide, give_up, obey
from services.cloud_launcher.follow import Follower
from services.cloud_launcher.kubernetes import KubernetesCluster
from services.cloud_launcher.ports import Cluster
from services.cloud_launcher.reconciler import Reconciler
from services.cloud_launcher.settings import CloudLauncherSettings, launcher_settings, replica_name, served

_log = structlog.get_logger("farlab.cloud_launcher")

SERVICE = "cloud-launcher"


def build(configuration: Configuration, broker: Broker) -> CloudLauncherApp:
    """The service, from its configuration and an open broker. Raises ConfigurationError and KeyFileError."""
    settings = launcher_settings(configuration)
    clouds = served(configuration, settings)
    installation = configuration.shared.installation.prefix
    return CloudLauncherApp(
        installation=installation,
        log=broker.log,
        leases=broker.leases,
        activity=broker.activity,
        vault=vault_of(configuration, broker, SERVICE),
        subjects=configuration.subjects,
        stamp=stamp_of(configuration, SERVICE),
        clouds=clouds,
        clusters={name: cluster_of(cloud, installation) for name, cloud in clouds.items()},
        settings=settings,
    )


def cluster_of(cloud: CloudSystem, installation: str) -> Cluster:
    """The port to a cloud's cluster. It is reached when it is first asked."""
    site = cloud.site
    namespace = "" if site.many_namespaces else site.namespace
    return KubernetesCluster(
        api_of(cloud.title, site), installation=installation, namespace=namespace, silent_seconds=site.silent_seconds
    )


class CloudLauncherApp:
    """The pods of sessions on clouds. The stamp's clock is that of facts, `clock` that of intervals."""

    def __init__(
        self,
        *,
        installation: str,
        log: Log,
        leases: Bucket,
        activity: Bucket,
        vault: Vault,
        subjects: Subjects,
        stamp: Stamp,
        clouds: Mapping[SystemName, CloudSystem],
        clusters: Mapping[SystemName, Cluster],
        settings: CloudLauncherSettings,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._activity = activity
        self._clusters = clusters
        self._settings = settings
        self._background: set[asyncio.Task[None]] = set()
        self._waiting = WaitingStarts(lambda event: self.sessions.consumer.record(event), stamp.now, "cloud")
        chronicle = Chronicle()
        self.followers: dict[SystemName, Follower] = {}
        actor = Actor(
            installation=installation,
            clouds=clouds,
            clusters=clusters,
            pods_of=lambda name: self.followers[name].pods,
            vault=vault,
            chronicle=chronicle,
            now=stamp.now,
            waiting=self._waiting,
        )
        self.sessions: SessionService[Command] = SessionService(
            service=SERVICE,
            log=log,
            subjects=subjects,
            stamp=stamp,
            decide=decide,
            perform=actor.perform,
            give_up=give_up,
            obey=obey,
            consumes=CONSUMES,
            systems=list(clouds),
        )
        # The view tells its watches of the whole history, so they have to be there before it follows.
        self.sessions.view.watch(chronicle.observe)
        self.reconcilers: dict[SystemName, Reconciler] = {}
        self._leases: dict[SystemName, Lease] = {}
        for name, cloud in clouds.items():
            follower = Follower(
                cloud=cloud,
                cluster=clusters[name],
                view=self.sessions.view,
                chronicle=chronicle,
                record=self.sessions.consumer.record,
                used_at=self._used_at,
                now=stamp.now,
                clock=clock,
            )
            self.sessions.view.watch(follower.observe)
            self.followers[name] = follower
            reconciler = Reconciler(
                cloud=cloud,
                cluster=clusters[name],
                pods=follower.pods,
                log=log,
                subjects=subjects,
                view=self.sessions.view,
                nudge=self.sessions.consumer.nudge,
                clock=clock,
            )
            self.sessions.view.watch(reconciler.observe)
            self.reconcilers[name] = reconciler
            self._leases[name] = Lease(leases, f"{SERVICE}.{name}.follower", replica_name(settings))

    async def start(self) -> None:
        """Reads the log, takes starts and stops, and follows the pods of clouds whose lease it wins."""
        await self.sessions.start()
        for name, lease in self._leases.items():
            follower = self.followers[name]
            for work in (follower.pods.run(), follower.run(), follower.listen()):
                self._run(work)
            self._run(follower.keep_time(self._settings.lifetime_seconds))
            self._run(self.reconcilers[name].run(self._settings.reconcile_seconds))
            self._run(lease.keep(partial(self._activate, name)))

    async def close(self) -> None:
        """Finishes what is in hand, lets the leases go."""
        await self.sessions.close()
        await end(self._background)
        await self._waiting.close()
        for lease in self._leases.values():
            await lease.release()
        for cluster in self._clusters.values():
            await cluster.close()

    def problems(self) -> Sequence[str]:
        """Nothing: a cloud that is down must not take the launcher of the others out of service."""
        return []

    def routes(self) -> Sequence[web.RouteDef]:
        """None of its own."""
        return []

    def _activate(self, name: SystemName, active: bool) -> None:
        self.followers[name].activate(active)
        self.reconcilers[name].activate(active)

    async def _used_at(self, session: SessionId) -> datetime | None:
        """When the hub last saw the session used."""
        entry = await self._activity.get(session)
        try:
            return datetime.fromisoformat(entry[0].decode()) if entry is not None else None
        except ValueError:
            return None

    def _run(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
