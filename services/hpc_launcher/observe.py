"""One look at one job: what the site says, what the job says, and the facts that follow. Keeps no schedule."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime

import structlog

from schemas.lifecycle import Submitted, WithStatus
from schemas.session import (
    Configuring,
    JobStatus,
    JobStatusChanged,
    ProgressReported,
    Queued,
    Running,
    ServerListening,
    SessionEvent,
    Unknown,
)
from services._launching.ends import ended, stop
from services._runtime.errors import PermanentError, TransientError
from services._runtime.systems import System
from services.hpc_launcher import ports, script
from services.hpc_launcher.chronicle import Chronicle
from services.hpc_launcher.decide import LAUNCHER
from services.hpc_launcher.endings import finish, used
from services.hpc_launcher.silence import Silence, lost_at, waits_for_server

_log = structlog.get_logger("farlab.hpc_launcher")

Record = Callable[[SessionEvent], Awaitable[bool]]

ERRORS_BELIEVED = 3
"""A site that misses fewer answers in a row is not worth a word in the log."""
INERT_BELIEVED = 3
"""How often a job that was submitted must be seen not started: a site that crashed forgets its last moments."""
PROGRESS_BYTES = 16 * 1024
MOST_PROGRESS_BYTES = 1024 * 1024
"""A job that writes more than this is not reporting to a person."""
ENDPOINT_BYTES = 1024
MOST_LINES = 10


@dataclass
class Watched:
    """What is known of a job between two looks. Times without a date are those of the poller's clock."""

    changed_at: float
    due_at: float = 0.0
    errors: int = 0
    missing: int = 0
    inert: int = 0
    hinted: bool = False
    silent_since: datetime | None = None
    words: str = ""
    progress_offset: int = 0


class Observer:
    """Looks at the jobs of one system. `record` appends a fact, or tells that the state refuses it."""

    def __init__(
        self,
        *,
        system: System,
        site: ports.Site,
        chronicle: Chronicle,
        record: Record,
        now: Callable[[], datetime],
        clock: Callable[[], float],
    ) -> None:
        self._system = system
        self._site = site
        self._chronicle = chronicle
        self._record = record
        self._now = now
        self._clock = clock

    async def look(self, state: WithStatus, watched: Watched) -> None:
        """Asks the site and records what changed. Raises TransientError when the log is away."""
        owner = script.owner_of(state.request, state.admission)
        report = await self._site.report(state.job, owner)
        if not isinstance(report, ports.Unknown):
            watched.errors, watched.silent_since = 0, None
        if not isinstance(report, ports.Gone):
            watched.missing = 0
        if not isinstance(report, ports.Inert):
            watched.inert = 0
        match report:
            case ports.Finished():
                since = self._chronicle.running_since(state.request.session)
                end = await finish(self._site, self._system, state, owner, report, since, self._now())
                await self._record(end)
                return
            case ports.Gone():
                await self._missing(state, watched)
                return
            case ports.Unknown(evidence=evidence):
                await self._silent(state, watched, evidence)
                return
            case ports.Inert():
                await self._status(state, watched, Queued(), "")
                await self._start_again(state, watched, owner)
            case ports.Queued(place_in_queue=place, estimated_start=start, words=words):
                await self._status(state, watched, Queued(place_in_queue=place, estimated_start=start), words)
            case ports.Configuring(words=words):
                await self._status(state, watched, Configuring(), words)
            case ports.Running():
                await self._status(state, watched, Running(), "")
                if isinstance(state, Submitted):
                    await self._listen(state, watched, owner)
        if waits_for_server(state) and self._now() >= state.request.deadline:
            await self._expire(state)

    async def _start_again(self, state: WithStatus, watched: Watched, owner: ports.Owner) -> None:
        """Starts a job whose start the site forgot; one that left a trace ran already and is lost to the site.

        If it still runs it ends itself once its directory is removed.
        """
        watched.inert += 1
        if watched.inert < INERT_BELIEVED or not isinstance(state, Submitted):
            return
        watched.inert = 0
        try:
            files = await self._site.sizes(state.job, owner)
            if {script.PROGRESS_FILE, script.ENDPOINT_FILE} & set(files):
                await self._lose(state, f"{self._system.title} forgot that the job had begun.")
            else:
                await self._site.start(state.job, owner)
        except (TransientError, PermanentError) as error:
            _log.info("not started again yet", session=state.request.session, reason=error.reason)

    async def _status(self, state: WithStatus, watched: Watched, status: JobStatus, words: str) -> None:
        """Records a status that differs from the log's, or words that differ from the last ones."""
        if status == state.job_status and words == watched.words:
            return
        unsaid = status == state.job_status and not words
        watched.words = words
        if unsaid:
            return
        watched.changed_at = self._clock()
        request = state.request
        await self._record(
            JobStatusChanged(
                hub=request.hub, system=request.system, session=request.session, job_status=status, words=words[:1024]
            )
        )

    async def _listen(self, state: Submitted, watched: Watched, owner: ports.Owner) -> None:
        """Reads what the job says it is doing and where its server listens. What it cannot read, it reads next time."""
        try:
            sizes = await self._site.sizes(state.job, owner)
            await self._progress(state, watched, owner, sizes.get(script.PROGRESS_FILE, 0))
            size = sizes.get(script.ENDPOINT_FILE, 0)
            if not 0 < size <= ENDPOINT_BYTES:
                return
            content = await self._site.read(state.job, script.ENDPOINT_FILE, owner, offset=0, length=size)
        except (TransientError, PermanentError):
            return
        said = script.endpoint(content, self._system.job.ports)
        if said is not None:
            request = state.request
            watched.changed_at = self._clock()
            await self._record(
                ServerListening(
                    hub=request.hub, system=request.system, session=request.session, host=said.host, port=said.port
                )
            )

    async def _progress(self, state: Submitted, watched: Watched, owner: ports.Owner, size: int) -> None:
        offset = watched.progress_offset
        if not offset < size <= MOST_PROGRESS_BYTES:
            return
        length = min(size - offset, PROGRESS_BYTES)
        content = await self._site.read(state.job, script.PROGRESS_FILE, owner, offset=offset, length=length)
        lines, done = script.progress_lines(content)
        # A line longer than a whole reading is nothing a person could read.
        watched.progress_offset += done or (length if length == PROGRESS_BYTES else 0)
        request = state.request
        for line in lines[-MOST_LINES:]:
            if not self._chronicle.was_said(request.session, line.percent, line.message):
                await self._record(
                    ProgressReported(
                        hub=request.hub,
                        system=request.system,
                        session=request.session,
                        percent=line.percent,
                        message=line.message,
                    )
                )

    async def _missing(self, state: WithStatus, watched: Watched) -> None:
        watched.missing += 1
        if watched.missing < ports.MISSING_BELIEVED:
            return
        await self._lose(state, f"{self._system.title} no longer knows the job: it was removed there.")

    async def _silent(self, state: WithStatus, watched: Watched, evidence: str) -> None:
        watched.errors += 1
        now = self._now()
        watched.silent_since = watched.silent_since or now
        silence = Silence(watched.silent_since, self._chronicle.running_since(state.request.session))
        bound = lost_at(state, silence, self._system.site.lost_after_seconds)
        if bound is not None and now >= bound:
            await self._lose(state, f"{self._system.title} says nothing of the job any more: {evidence}")
        elif watched.errors >= ERRORS_BELIEVED and not isinstance(state.job_status, Unknown):
            await self._status(state, watched, Unknown(evidence=evidence[:1024]), "")

    async def _lose(self, state: WithStatus, reason: str) -> None:
        since = self._chronicle.running_since(state.request.session)
        use = used(self._system, state.request, since, self._now())
        await self._record(ended(state.request, "lost", reason, "Start the server again.", use=use))

    async def _expire(self, state: WithStatus) -> None:
        """Asks for the end of a start that took too long."""
        reason = f"{self._system.title} did not start the server before the deadline of the start."
        await self._record(stop(state.request, LAUNCHER, reason))
