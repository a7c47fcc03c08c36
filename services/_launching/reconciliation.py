"""Regular rounds in which a launcher closes the difference between the log and one system. Follows no job.

Only the replica that holds the system's lease does so. What it removes carries this installation's mark.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable

import structlog

from schemas.base import SessionId, SystemName
from schemas.lifecycle import SessionState
from schemas.session import SessionEvent
from schemas.subjects import Subjects
from services._launching.comparison import Nudge, RemoveOrphan, TaggedJob, compare, overdue
from services._runtime.errors import PermanentError, TransientError
from services._runtime.log import Log, Recorded
from services._runtime.view import placed

_log = structlog.get_logger("farlab.launching")

OVERDUE_SECONDS = 30.0
"""How long a session may rest in a state that demands something, before its message is taken for lost."""


class Reconciliation(ABC):
    """One system's rounds. `nudge` decides a session anew from its state alone."""

    def __init__(
        self,
        *,
        system: SystemName,
        log: Log,
        subjects: Subjects,
        nudge: Callable[[SessionId], Awaitable[None]],
        clock: Callable[[], float],
    ) -> None:
        self._system = system
        self._log = log
        self._subjects = subjects
        self._nudge = nudge
        self._clock = clock
        self._rests_since: dict[SessionId, float] = {}
        self._active = asyncio.Event()

    @abstractmethod
    async def compare(self) -> None:
        """Compares what is there with the log. Raises TransientError or PermanentError."""

    def observe(self, recorded: Recorded, before: SessionState, after: SessionState) -> None:
        """Takes an event that entered the view: which session rests where."""
        event = recorded.message
        if not isinstance(event, SessionEvent) or event.system != self._system:
            return
        if not overdue(after):
            self._rests_since.pop(event.session, None)
        elif type(after) is not type(before):
            self._rests_since[event.session] = self._clock()

    def activate(self, active: bool) -> None:
        """Begins or ceases, as the lease is won or lost."""
        if active:
            self._active.set()
        else:
            self._active.clear()

    async def run(self, every_seconds: float) -> None:
        """Reconciles for ever, while active. Ends by cancel."""
        while True:
            await self._active.wait()
            try:
                await self.reconcile()
            except TransientError as error:
                _log.info("reconciliation waits", system=self._system, reason=error.reason)
            except PermanentError as error:
                _log.warning("reconciliation refused", system=self._system, reason=error.reason)
            except Exception:
                _log.exception("reconciliation failed", system=self._system)
            await asyncio.sleep(every_seconds)

    async def reconcile(self) -> None:
        """One round: sessions that rest too long are decided anew, and what is there is compared."""
        late = self._clock() - OVERDUE_SECONDS
        for session in [session for session, since in self._rests_since.items() if since <= late]:
            self._rests_since[session] = self._clock()
            await self._nudged(session)
        await self.compare()

    async def settle(self, found: Iterable[TaggedJob], remove: Callable[[RemoveOrphan], Awaitable[None]]) -> None:
        """Nudges the overdue sessions of jobs that were found, and has the orphans among them removed.

        The log itself is asked, for no job is removed by a view that may be behind.
        """
        jobs = list(found)
        wanted = {job.session: await self._state(job.session) for job in jobs if job.session is not None}
        for step in compare(wanted, jobs):
            match step:
                case Nudge(session=session):
                    if self._clock() - self._rests_since.get(session, self._clock()) >= OVERDUE_SECONDS:
                        await self._nudged(session)
                case RemoveOrphan(job=job, why=why):
                    _log.warning("orphan removed", system=self._system, job=job, reason=why)
                    await remove(step)

    async def _state(self, session: SessionId) -> SessionState:
        return placed(await self._log.history("SESSIONS", self._subjects.session(session))).state

    async def _nudged(self, session: SessionId) -> None:
        try:
            await self._nudge(session)
        except (TransientError, PermanentError) as error:
            _log.info("not settled yet", session=session, reason=error.reason)
