"""Carries out the launcher's commands at the clusters; names make them safe to repeat. Decides nothing."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta

import structlog

from schemas.base import UNSTAMPED, SessionId, SystemName
from schemas.secrets import JobSecrets
from schemas.session import JobCreated, JobSubmitted, LogTail, SessionEnded, SessionEvent, StartRequested, StopRequested
from services._launching.ends import ended, stopped
from services._launching.waiting import WaitingStarts
from services._runtime.clouds import CloudSystem
from services._runtime.errors import PermanentError, TransientError
from services._runtime.vault import Vault
from services.cloud_launcher import manifests
from services.cloud_launcher.chronicle import Chronicle, used
from services.cloud_launcher.decide import (
    LAUNCHER,
    ClearAway,
    Command,
    EndPod,
    MakePod,
    OpenPod,
)
from services.cloud_launcher.pods import Pods
from services.cloud_launcher.ports import Cluster, PodName, Silent

_log = structlog.get_logger("farlab.cloud_launcher")

ENDING_SECONDS = 5.0
"""How long a handler waits for a pod to go before the message comes again; most go within."""
STILL_ENDING_SECONDS = 1.0
FORCE_AFTER = timedelta(seconds=30)
"""A pod that is there so long after its grace is removed by force: its node does not answer."""
CLEARED_KEPT = 10_000


class Actor:
    """Performs commands. `clusters` has an entry for every cloud, `pods_of` tells what its watch knows."""

    def __init__(
        self,
        *,
        installation: str,
        clouds: Mapping[SystemName, CloudSystem],
        clusters: Mapping[SystemName, Cluster],
        pods_of: Callable[[SystemName], Pods],
        vault: Vault,
        chronicle: Chronicle,
        now: Callable[[], datetime],
        waiting: WaitingStarts,
    ) -> None:
        self._installation = installation
        self._clouds = clouds
        self._clusters = clusters
        self._pods_of = pods_of
        self._vault = vault
        self._chronicle = chronicle
        self._now = now
        self._waiting = waiting
        self._cleared: OrderedDict[SessionId, None] = OrderedDict()

    async def perform(self, command: Command) -> list[SessionEvent]:
        """The facts that came of a command. Raises TransientError or PermanentError."""
        request = command.request
        cloud, cluster = self._clouds.get(request.system), self._clusters.get(request.system)
        if cloud is None or cluster is None:
            raise PermanentError(
                "unknown-system",
                f"{request.system} is not configured any more.",
                "Choose another system, or ask the operator of this service.",
            )
        match command:
            case MakePod():
                with self._waiting.until_deadline(request, cloud.title):
                    return [await self._make(request, cloud, cluster)]
            case OpenPod(pod=pod):
                with self._waiting.until_deadline(request, cloud.title):
                    return [await self._open(request, cloud, cluster, pod)]
            case EndPod(pod=made, stop=stop):
                return [await self._end(request, cloud, cluster, made, stop)]
            case ClearAway(pod=made):
                await self._clear_away(request, cloud, cluster, made)
                return []

    async def _make(self, request: StartRequested, cloud: CloudSystem, cluster: Cluster) -> JobCreated:
        secrets = await self._vault.open(request.session, JobSecrets)
        manifest = manifests.pod(cloud, self._installation, request)
        if secrets.certificates is not None:
            manifest = manifests.behind_tls(manifest)
        if (claim := manifests.claim(cloud, self._installation, request)) is not None:
            await cluster.make(claim)
        pod = await cluster.make(manifest)
        return JobCreated(hub=request.hub, system=request.system, session=request.session, job=pod.job)

    async def _open(self, request: StartRequested, cloud: CloudSystem, cluster: Cluster, pod: PodName) -> JobSubmitted:
        secrets = await self._vault.open(request.session, JobSecrets)
        for belonging in manifests.belongings(cloud, self._installation, request, pod, secrets):
            await cluster.make(belonging)
        await cluster.release(pod)
        return JobSubmitted(hub=request.hub, system=request.system, session=request.session)

    async def _end(
        self, request: StartRequested, cloud: CloudSystem, cluster: Cluster, made: PodName | None, stop: StopRequested
    ) -> SessionEnded:
        expired = stop.by == LAUNCHER
        asked = self._now() if stop.id == UNSTAMPED else stop.at
        waited = self._now() - asked
        log = ""
        try:
            if expired and made is not None:
                log = await cluster.log_tail(made)
            if (pod := made or await _found(cloud, cluster, request)) is not None:
                await self._end_pod(cloud, cluster, pod, request.system, waited)
        except TransientError as error:
            if waited < timedelta(seconds=cloud.site.lost_after_seconds):
                raise
            reason = f"{cloud.title} did not confirm that the server ended: {error.reason}"
            return ended(request, "lost", reason, "Nothing is needed: it is removed as soon as the cloud answers.")
        use = used(cloud, request, self._chronicle.running_since(request.session), self._now())
        return ended(request, *stopped(stop, LAUNCHER), log_tail=LogTail(stdout=log), use=use)

    async def _end_pod(
        self, cloud: CloudSystem, cluster: Cluster, pod: PodName, system: SystemName, waited: timedelta
    ) -> None:
        """Returns when the pod is gone. Raises TransientError while it is not."""
        grace = cloud.pod.grace_seconds
        force = waited > timedelta(seconds=grace) + FORCE_AFTER
        if not await cluster.remove(pod, 0 if force or self._is_silent(system, pod) else grace):
            return
        if await self._pods_of(system).gone(pod.uid, ENDING_SECONDS):
            return
        if await cluster.look(pod) is not None:
            raise TransientError("the pod is not gone yet", STILL_ENDING_SECONDS)

    def _is_silent(self, system: SystemName, pod: PodName) -> bool:
        """Whether its node is lost, so that nobody will ever confirm an end."""
        seen = self._pods_of(system).get(pod.uid)
        return seen is not None and isinstance(seen.report, Silent)

    async def _clear_away(
        self, request: StartRequested, cloud: CloudSystem, cluster: Cluster, made: PodName | None
    ) -> None:
        if request.session in self._cleared:
            return
        await self._vault.forget(request.session)
        if (pod := made or await _found(cloud, cluster, request)) is not None:
            await cluster.remove(pod, 0 if self._is_silent(request.system, pod) else None)
        self._cleared[request.session] = None
        if len(self._cleared) > CLEARED_KEPT:
            self._cleared.popitem(last=False)


async def _found(cloud: CloudSystem, cluster: Cluster, request: StartRequested) -> PodName | None:
    """The pod of a session whose log knows of none: what has its name is only ours where it names the session too."""
    seen = await cluster.look(manifests.pod_name(cloud, request))
    return seen.pod if seen is not None and seen.session == request.session else None
