"""Reconciles a cloud's pods, which its watch has all in memory. Follows no pod."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import structlog

from schemas.base import SessionId
from schemas.subjects import Subjects
from services._launching.comparison import RemoveOrphan, TaggedJob
from services._launching.reconciliation import OVERDUE_SECONDS, Reconciliation
from services._runtime.clouds import CloudSystem
from services._runtime.log import Log
from services._runtime.view import SessionView
from services.cloud_launcher.pods import Pods, strays
from services.cloud_launcher.ports import Cluster, PodName

_log = structlog.get_logger("farlab.cloud_launcher")


class Reconciler(Reconciliation):
    """One cloud's reconciliation. `nudge` decides a session anew from its state alone."""

    def __init__(
        self,
        *,
        cloud: CloudSystem,
        cluster: Cluster,
        pods: Pods,
        log: Log,
        subjects: Subjects,
        view: SessionView,
        nudge: Callable[[SessionId], Awaitable[None]],
        clock: Callable[[], float],
    ) -> None:
        super().__init__(system=cloud.name, log=log, subjects=subjects, nudge=nudge, clock=clock)
        self._cloud = cloud
        self._cluster = cluster
        self._pods = pods
        self._view = view
        self._leaving: dict[str, float] = {}

    async def compare(self) -> None:
        """Compares the pods as soon as the watch has told all there are."""
        if self._pods.synced:
            states = {session: known.state for session, known in self._view.live()}
            found = strays(states, self._pods.all())
            await self.settle([TaggedJob(seen.pod.job, seen.session) for seen in found], self._remove)
            await self._insist()

    async def _remove(self, orphan: RemoveOrphan) -> None:
        await self._cluster.remove(PodName.of(orphan.job))

    async def _insist(self) -> None:
        """Pods that were asked to go long ago go by force: their node is lost, and nobody else will say so."""
        leaving = {seen.pod.uid: seen.pod for seen in self._pods.all() if seen.leaving}
        self._leaving = {uid: self._leaving.get(uid, self._clock()) for uid in leaving}
        patience = self._cloud.pod.grace_seconds + OVERDUE_SECONDS
        for uid, since in self._leaving.items():
            if self._clock() - since > patience:
                _log.warning("pod removed by force", system=self._cloud.name, pod=leaving[uid].name)
                await self._cluster.remove(leaving[uid], 0)
