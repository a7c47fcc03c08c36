"""Follows the sessions of one cloud: what becomes of their pods is recorded, and their time is kept. Makes no pod.

Only the replica that holds the cloud's lease records. What wakes it are changes of pods and of sessions; a round every
few seconds finds what no change tells.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog

from schemas.base import SessionId
from schemas.lifecycle import SessionState, Submitted, WithServer, WithStatus
from schemas.session import (
    Configuring,
    JobStatus,
    JobStatusChanged,
    LogTail,
    ProgressReported,
    ServerListening,
    SessionEvent,
    Unknown,
    Use,
)
from schemas.session import Queued as QueuedStatus
from schemas.session import Running as RunningStatus
from services._launching.ends import ended, stop
from services._runtime.clouds import CloudSystem, PortForwardReach
from services._runtime.errors import PermanentError, TransientError
from services._runtime.log import Recorded
from services._runtime.view import SessionView
from services.cloud_launcher import lifetimes, manifests, ports
from services.cloud_launcher.chronicle import Chronicle, used
from services.cloud_launcher.decide import LAUNCHER
from services.cloud_launcher.pods import Pods

_log = structlog.get_logger("farlab.cloud_launcher")

MISSING_SECONDS = 2.0
"""How long a pod may be missing from the watch before the cluster itself is asked: a watch may lag."""
SILENCE_SECONDS = 60.0
"""How long the cluster may be away before its sessions are said to be unknown."""
AT_ONCE = 16
PULL_SAID_SECONDS = (30.0, 60.0, 120.0, 300.0, 600.0, 1200.0)

UsedAt = Callable[[SessionId], Awaitable[datetime | None]]
"""When a session was last used, as the hub reports it; None where it has not said."""


@dataclass
class Noted:
    """What was noted of a session between two looks."""

    words: str = ""
    said: str = ""
    missing_since: float | None = None
    silent_since: datetime | None = None
    pulling: str = ""
    pulling_since: float = 0.0
    pulls_said: int = 0


class Follower:
    """The sessions of one cloud. `record` appends a fact, or tells that the state refuses it."""

    def __init__(
        self,
        *,
        cloud: CloudSystem,
        cluster: ports.Cluster,
        view: SessionView,
        chronicle: Chronicle,
        record: Callable[[SessionEvent], Awaitable[bool]],
        used_at: UsedAt,
        now: Callable[[], datetime],
        clock: Callable[[], float],
    ) -> None:
        self._cloud = cloud
        self._cluster = cluster
        self._view = view
        self._chronicle = chronicle
        self._record = record
        self._used_at = used_at
        self._now = now
        self._clock = clock
        self._noted: dict[SessionId, Noted] = {}
        self._due: dict[SessionId, None] = {}
        self._wake = asyncio.Event()
        self._active = asyncio.Event()
        self.pods = Pods(cluster, self.touch, clock)

    def observe(self, recorded: Recorded, _before: SessionState, after: SessionState) -> None:
        """Takes an event that entered the view."""
        event = recorded.message
        if not isinstance(event, SessionEvent) or event.system != self._cloud.name:
            return
        if isinstance(after, WithStatus):
            if isinstance(after, Submitted) or event.session not in self._noted:
                self.touch(event.session)
        else:
            self._noted.pop(event.session, None)

    def touch(self, session: SessionId) -> None:
        """The session is to be looked at."""
        self._due[session] = None
        self._wake.set()

    def activate(self, active: bool) -> None:
        """Begins or ceases to record, as the lease is won or lost."""
        if active:
            self._active.set()
            for session, placed in self._view.live():
                if isinstance(placed.state, WithStatus) and placed.state.request.system == self._cloud.name:
                    self.touch(session)
        else:
            self._active.clear()

    async def run(self) -> None:
        """Looks at what changed, for ever. Ends by cancel."""
        while True:
            await self._active.wait()
            await self._wake.wait()
            self._wake.clear()
            while self._due and self._active.is_set():
                turn = list(self._due)[:AT_ONCE]
                for session in turn:
                    del self._due[session]
                await asyncio.gather(*(self._safely(session) for session in turn))

    async def listen(self) -> None:
        """Passes on what the cluster says of pods, for ever. Ends by cancel."""
        async for told in self._cluster.words():
            if not self._active.is_set():
                continue
            noted = self._noted.setdefault(told.session, Noted())
            noted.pulling, noted.pulling_since = (told.words if told.pulling else ""), self._clock()
            noted.pulls_said = 0
            await self._say(told.session, told.percent, told.words)

    async def keep_time(self, every_seconds: float) -> None:
        """Looks at the time of every session regularly, for ever. Ends by cancel."""
        while True:
            await asyncio.sleep(every_seconds)
            await self._active.wait()
            for session, placed in self._view.live():
                if isinstance(placed.state, WithStatus) and placed.state.request.system == self._cloud.name:
                    try:
                        await self.round(session, placed.state)
                    except (TransientError, PermanentError) as error:
                        _log.info("not now", session=session, reason=error.reason)
                    except Exception:
                        _log.exception("a session's time was not kept", session=session)

    async def round(self, session: SessionId, state: WithStatus) -> None:
        """What the passing of time asks of one session."""
        noted = self._noted.setdefault(session, Noted())
        seen = self.pods.get(ports.PodName.of(state.job).uid)
        if self._clock() - self.pods.heard_at > max(SILENCE_SECONDS, self._cloud.site.silent_seconds):
            await self._silent(state, noted, f"{self._cloud.title} does not answer.")
        elif seen is None or isinstance(seen.report, ports.Silent):
            self.touch(session)
        if isinstance(state, Submitted) and self._now() >= state.request.deadline:
            reason = f"{self._cloud.title} did not start the server before the deadline of the start."
            await self._record(stop(state.request, LAUNCHER, self._with_words(reason, noted)))
        elif isinstance(state, WithServer):
            await self._lifetime(state)
        elif noted.pulling:
            await self._still_pulling(session, noted)

    async def look(self, session: SessionId) -> None:
        """Compares one session with its pod and records what changed. Raises TransientError when the log is away."""
        placed = self._view.get(session)
        if placed is None or not isinstance(placed.state, WithStatus):
            return
        state, noted = placed.state, self._noted.setdefault(session, Noted())
        pod = ports.PodName.of(state.job)
        seen = self.pods.get(pod.uid) or await self._missing(pod, noted)
        if seen is None:
            if noted.missing_since is None:
                await self._lose(state, pod)
            return
        noted.missing_since = None
        report = seen.report
        if not isinstance(report, ports.Silent):
            noted.silent_since = None
        match report:
            case ports.Over():
                await self._finish(state, pod, report)
            case ports.Silent(evidence=evidence):
                if seen.leaving:
                    await self._end(state, f"The node of the server is lost: {evidence}")
                else:
                    await self._silent(state, noted, evidence)
            case ports.Inert():
                await self._cluster.release(pod)
            case ports.Queued(words=words):
                await self._status(state, noted, QueuedStatus(), words)
            case ports.Preparing(words=words):
                await self._status(state, noted, Configuring(), words)
            case ports.Running():
                await self._status(state, noted, RunningStatus(), "The server is being started.")
            case ports.Serving(address=address):
                await self._status(state, noted, RunningStatus(), "")
                if isinstance(state, Submitted):
                    await self._listening(state, pod, address)

    async def _safely(self, session: SessionId) -> None:
        try:
            await self.look(session)
        except (TransientError, PermanentError) as error:
            _log.info("not recorded yet", session=session, reason=error.reason)
        except Exception:
            _log.exception("a session was not looked at", session=session)

    async def _missing(self, pod: ports.PodName, noted: Noted) -> ports.Seen | None:
        """A pod the watch does not have: the cluster is asked once it is missing for long. None with
        `missing_since` reset means that it is gone."""
        if not self.pods.synced:
            noted.missing_since = self._clock()
            return None
        if self.pods.last(pod.uid) is None:
            noted.missing_since = noted.missing_since or self._clock()
            if self._clock() - noted.missing_since < MISSING_SECONDS:
                return None
        try:
            found = await self._cluster.look(pod)
        except TransientError:
            noted.missing_since = noted.missing_since or self._clock()
            raise
        if found is None:
            noted.missing_since = None
        return found

    async def _lose(self, state: WithStatus, pod: ports.PodName) -> None:
        """The pod is gone and we did not end it: how it was before says why, else somebody deleted it."""
        last = self.pods.last(pod.uid)
        if last is not None and isinstance(last.report, ports.Over):
            await self._finish(state, pod, last.report)
        elif last is not None and isinstance(last.report, ports.Silent):
            await self._end(state, f"The node of the server is lost: {last.report.evidence}")
        else:
            await self._end(state, f"The server's pod was deleted at {self._cloud.title}, not by Farlab.")

    async def _finish(self, state: WithStatus, pod: ports.PodName, over: ports.Over) -> None:
        log = await self._cluster.log_tail(pod) if over.log and self.pods.get(pod.uid) is not None else ""
        await self._record(
            ended(
                state.request,
                over.outcome,
                over.reason,
                over.remedy,
                exit_code=over.exit_code,
                log_tail=LogTail(stdout=log),
                use=self._use(state),
            )
        )

    async def _end(self, state: WithStatus, reason: str) -> None:
        await self._record(ended(state.request, "lost", reason, "Start the server again.", use=self._use(state)))

    def _use(self, state: WithStatus) -> Use:
        return used(self._cloud, state.request, self._chronicle.running_since(state.request.session), self._now())

    async def _silent(self, state: WithStatus, noted: Noted, evidence: str) -> None:
        """Nobody knows: said at once, believed to be lost when the stated bound is over."""
        noted.silent_since = noted.silent_since or self._now()
        since = self._chronicle.running_since(state.request.session)
        if isinstance(state, Submitted) or since is None:
            bound = state.request.deadline
        else:
            bound = since + timedelta(seconds=state.request.resources.runtime_seconds)
        bound = max(bound, noted.silent_since) + timedelta(seconds=self._cloud.site.lost_after_seconds)
        if self._now() >= bound:
            await self._end(state, f"{self._cloud.title} says nothing of the server any more: {evidence}")
        elif not isinstance(state.job_status, Unknown):
            await self._status(state, noted, Unknown(evidence=evidence[:1024]), "")

    async def _status(self, state: WithStatus, noted: Noted, status: JobStatus, words: str) -> None:
        """Records a status that differs from the log's, or words that differ from the last ones."""
        if status == state.job_status and words == noted.words:
            return
        unsaid = status == state.job_status and not words
        noted.words = words
        if unsaid:
            return
        at = state.request
        await self._record(
            JobStatusChanged(hub=at.hub, system=at.system, session=at.session, job_status=status, words=words[:1024])
        )

    async def _listening(self, state: Submitted, pod: ports.PodName, address: str) -> None:
        by_name = isinstance(self._cloud.reach, PortForwardReach)
        at, host = state.request, manifests.service_host(pod) if by_name else address
        await self._record(
            ServerListening(hub=at.hub, system=at.system, session=at.session, host=host, port=self._cloud.pod.port)
        )

    async def _lifetime(self, state: WithStatus) -> None:
        flavour, _ = manifests.chosen(self._cloud, state.request)
        session = state.request.session
        since = self._chronicle.listening_since(session)
        if since is None:
            return
        used_at = (await self._used_at(session) if flavour.idle_seconds is not None else None) or since
        life = lifetimes.Life(
            since=since,
            max_age_seconds=state.request.resources.runtime_seconds,
            used_at=max(used_at, since),
            warned=self._chronicle.warned(session),
        )
        match lifetimes.judged(flavour, life, self._now()):
            case lifetimes.Warn(words=words):
                await self._say(session, 100, words)
            case lifetimes.End(reason=reason):
                await self._record(stop(state.request, LAUNCHER, reason))
            case None:
                pass

    async def _still_pulling(self, session: SessionId, noted: Noted) -> None:
        seconds = self._clock() - noted.pulling_since
        due = sum(seconds >= each for each in PULL_SAID_SECONDS)
        if due > noted.pulls_said:
            noted.pulls_said = due
            await self._say(session, 30, f"{noted.pulling.rstrip('.')} for {round(seconds)} s now.")

    async def _say(self, session: SessionId, percent: int, words: str) -> None:
        placed = self._view.get(session)
        noted = self._noted.setdefault(session, Noted())
        if placed is None or not isinstance(placed.state, WithStatus) or noted.said == words:
            return
        noted.said = words
        at = placed.state.request
        try:
            await self._record(
                ProgressReported(hub=at.hub, system=at.system, session=session, percent=percent, message=words[:1024])
            )
        except (TransientError, PermanentError) as error:
            noted.said = ""
            _log.info("not said", session=session, reason=error.reason)

    def _with_words(self, reason: str, noted: Noted) -> str:
        return f"{reason} {noted.words}".strip()
