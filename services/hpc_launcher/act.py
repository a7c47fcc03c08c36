"""Carries out the launcher's commands at the sites, idempotently by the session's tag. Decides nothing."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta

import structlog

from schemas.base import UNSTAMPED, SessionId, SystemName
from schemas.secrets import JobSecrets
from schemas.session import JobCreated, JobSubmitted, SessionEnded, SessionEvent, StartRequested, StopRequested
from services._launching.ends import ended, stopped
from services._launching.waiting import WaitingStarts
from services._runtime.errors import PermanentError, TransientError
from services._runtime.systems import System
from services._runtime.vault import Vault
from services.hpc_launcher import script
from services.hpc_launcher.chronicle import Chronicle
from services.hpc_launcher.decide import (
    LAUNCHER,
    ClearAway,
    Command,
    CreateJob,
    EndJob,
    RemoveStray,
    SubmitJob,
)
from services.hpc_launcher.endings import log_tail, used
from services.hpc_launcher.ports import MISSING_BELIEVED, Finished, Gone, Owner, Site, Unknown

_log = structlog.get_logger("farlab.hpc_launcher")

STILL_ENDING_SECONDS = 1.0
ENDING_SECONDS = (0.1, 0.2, 0.4, 0.8, 1.5)
CLEARED_KEPT = 10_000


class Actor:
    """Performs commands. `sites` has a port for every system in `systems`."""

    def __init__(
        self,
        *,
        installation: str,
        systems: Mapping[SystemName, System],
        sites: Mapping[SystemName, Site],
        vault: Vault,
        chronicle: Chronicle,
        now: Callable[[], datetime],
        waiting: WaitingStarts,
    ) -> None:
        self._installation = installation
        self._systems = systems
        self._sites = sites
        self._vault = vault
        self._chronicle = chronicle
        self._now = now
        self._waiting = waiting
        self._cleared: OrderedDict[SessionId, None] = OrderedDict()

    async def perform(self, command: Command) -> list[SessionEvent]:
        """The facts that came of a command. Raises TransientError or PermanentError."""
        request = command.request
        system, site = self._systems.get(request.system), self._sites.get(request.system)
        if system is None or site is None:
            raise PermanentError(
                "unknown-system",
                f"{request.system} is not configured any more.",
                "Choose another system, or ask the operator of this service.",
            )
        owner = script.owner_of(request, command.admission)
        match command:
            case CreateJob():
                with self._waiting.until_deadline(request, system.title):
                    return [await self._create(request, system, site, owner)]
            case SubmitJob(job=job):
                with self._waiting.until_deadline(request, system.title):
                    await site.start(job, owner)
                return [JobSubmitted(hub=request.hub, system=request.system, session=request.session)]
            case EndJob(job=job, stop=stop):
                return [await self._end(request, system, site, owner, job, stop)]
            case ClearAway(job=job):
                await self._clear_away(request, site, owner, job)
                return []
            case RemoveStray(job=job):
                _log.warning("stray job removed", job=job, session=request.session)
                await site.delete(job, owner)
                return []

    async def _create(self, request: StartRequested, system: System, site: Site, owner: Owner) -> JobCreated:
        secrets = await self._vault.open(request.session, JobSecrets)
        marks = script.marks_of(self._installation, request)
        # A repeated delivery finds what an earlier one made whose answer or fact was lost. Which of several the log
        # takes is not known here, so none is removed: they are inert, and reconciliation removes what the log left out.
        found = await site.find(marks, owner)
        description = script.description(system, self._installation, request, owner)
        job = found[0] if found else await site.create(description, owner)
        await site.stage(job, script.secret_files(system, request, secrets), owner)
        return JobCreated(hub=request.hub, system=request.system, session=request.session, job=job)

    async def _end(
        self, request: StartRequested, system: System, site: Site, owner: Owner, job: str, stop: StopRequested
    ) -> SessionEnded:
        """Tries until the stated bound; what is left at the site then is cleared away when it answers."""
        if not job:
            # Nothing was ever started: what the site may have all the same is inert, and goes when all is cleared away.
            return ended(request, *stopped(stop, LAUNCHER))
        try:
            return await self._end_job(request, system, site, owner, job, stop)
        except TransientError as error:
            asked = self._now() if stop.id == UNSTAMPED else stop.at
            if self._now() - asked < timedelta(seconds=system.site.lost_after_seconds):
                raise
            reason = f"{system.title} did not confirm that the job ended: {error.reason}"
            return ended(request, "lost", reason, "Nothing is needed: the job is removed as soon as the site answers.")

    async def _end_job(
        self, request: StartRequested, system: System, site: Site, owner: Owner, job: str, stop: StopRequested
    ) -> SessionEnded:
        await site.abort(job, owner)
        report = await site.report(job, owner)
        missing = int(isinstance(report, Gone))
        # Sites answer an abort before they have carried it out; most have within a moment, and a person waits for it.
        for seconds in ENDING_SECONDS:
            if isinstance(report, Finished | Unknown) or missing >= MISSING_BELIEVED:
                break
            await asyncio.sleep(seconds)
            report = await site.report(job, owner)
            missing = missing + 1 if isinstance(report, Gone) else 0
        if not isinstance(report, Finished) and missing < MISSING_BELIEVED:
            raise TransientError(f"the job is not over yet: {report}", STILL_ENDING_SECONDS)
        expired = stop.by == LAUNCHER
        finished = report if isinstance(report, Finished) else None
        use = used(system, request, self._chronicle.running_since(request.session), self._now())
        return ended(
            request,
            *stopped(stop, LAUNCHER),
            "Try again later, or choose a partition with shorter queues." if expired else "",
            exit_code=finished.exit_code if finished else None,
            log_tail=await log_tail(site, job, owner, finished) if finished and expired else None,
            use=use,
        )

    async def _clear_away(self, request: StartRequested, site: Site, owner: Owner, job: str) -> None:
        if request.session in self._cleared:
            return
        await self._vault.forget(request.session)
        jobs = [job] if job else await site.find(script.marks_of(self._installation, request), owner)
        for each in jobs:
            await site.delete(each, owner)
        self._cleared[request.session] = None
        if len(self._cleared) > CLEARED_KEPT:
            self._cleared.popitem(last=False)
