"""Regularly compares a cloud's pods with the log and closes the difference. Follows no pod: the watch has them all.

Only the replica that holds the cloud's lease does so. What it removes carries this installation's label.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from schemas.base import SessionId
from schemas.lifecycle import SessionState
from schemas.session import SessionEvent
from schemas.subjects import Subjects
from services._runtime.clouds import CloudSystem
from services._runtime.errors import PermanentError, TransientError
from services._runtime.log import Log, Recorded
from services._runtime.view import SessionView, placed
from services.cloud_launcher.pods import Pods
from services.cloud_launcher.ports import Cluster
from services.cloud_launcher.reconcile import Nudge, Remove, compare, overdue, strays

_log = structlog.get_logger("farlab.cloud_launcher")

OVERDUE_SECONDS = 30.0
"""How long a session may rest in a state that demands something, before its message is taken for lost."""


class Reconciler:
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
        self._cloud = cloud
        self._cluster = cluster
        self._pods = pods
        self._log = log
        self._subjects = subjects
        self._view = view
        self._nudge = nudge
        self._clock = clock
        self._rests: dict[SessionId, float] = {}
        self._leaving: dict[str, float] = {}
        self._active = asyncio.Event()

    def observe(self, recorded: Recorded, before: SessionState, after: SessionState) -> None:
        """Takes an event that entered the view: which session rests where."""
        event = recorded.message
        if isinstance(event, SessionEvent) and event.system == self._cloud.name:
            if not overdue(after):
                self._rests.pop(event.session, None)
            elif type(after) is not type(before):
                self._rests[event.session] = self._clock()

    def activate(self, active: bool) -> None:
        """Begins or ceases, as the lease is won or lost."""
        (self._active.set if active else self._active.clear)()

    async def run(self, every_seconds: float) -> None:
        """Reconciles for ever, while active. Ends by cancel."""
        while True:
            await self._active.wait()
            try:
                await self.reconcile()
            except (TransientError, PermanentError) as error:
                _log.info("reconciliation waits", system=self._cloud.name, reason=error.reason)
            except Exception:
                _log.exception("reconciliation failed", system=self._cloud.name)
            await asyncio.sleep(every_seconds)

    async def reconcile(self) -> None:
        """One round: sessions that rest too long are decided anew, pods that the log does not want go."""
        late = self._clock() - OVERDUE_SECONDS
        for session in [session for session, since in self._rests.items() if since <= late]:
            self._rests[session] = self._clock()
            await self._nudged(session)
        if self._pods.synced:
            await self._compare()
            await self._insist()

    async def _compare(self) -> None:
        states = {session: known.state for session, known in self._view.live()}
        found = strays(states, self._pods.all())
        wanted = {seen.session: await self._state(seen.session) for seen in found if seen.session is not None}
        for step in compare(wanted, found):
            match step:
                case Nudge(session=session):
                    if self._clock() - self._rests.get(session, self._clock()) >= OVERDUE_SECONDS:
                        await self._nudged(session)
                case Remove(pod=pod, why=why):
                    _log.warning("stray pod removed", system=self._cloud.name, pod=pod.name, reason=why)
                    await self._cluster.remove(pod)

    async def _insist(self) -> None:
        """Pods that were asked to go long ago go by force: their node is lost, and nobody else will say so."""
        leaving = {seen.pod.uid: seen.pod for seen in self._pods.all() if seen.leaving}
        self._leaving = {uid: self._leaving.get(uid, self._clock()) for uid in leaving}
        patience = self._cloud.pod.grace_seconds + OVERDUE_SECONDS
        for uid, since in self._leaving.items():
            if self._clock() - since > patience:
                _log.warning("pod removed by force", system=self._cloud.name, pod=leaving[uid].name)
                await self._cluster.remove(leaving[uid], 0)

    async def _state(self, session: SessionId) -> SessionState:
        """The session's state by the log itself: removing a pod is not decided on a view that may be behind."""
        return placed(await self._log.history("SESSIONS", self._subjects.session(session))).state

    async def _nudged(self, session: SessionId) -> None:
        try:
            await self._nudge(session)
        except (TransientError, PermanentError) as error:
            _log.info("not settled yet", session=session, reason=error.reason)
