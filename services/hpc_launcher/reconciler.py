"""Regularly compares a site's jobs with the log and closes the difference, a few users at a time. Follows no job.

Only the replica that holds the system's lease does so. What it removes carries this installation's tag.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta

import structlog

from schemas.base import SessionId
from schemas.lifecycle import Admitted, Ended, SessionState, WithJob
from schemas.session import SessionEvent
from schemas.subjects import Subjects
from services._runtime.errors import PermanentError, TransientError
from services._runtime.log import Log, Recorded
from services._runtime.systems import System
from services._runtime.view import SessionView, placed
from services.hpc_launcher import script
from services.hpc_launcher.ports import Owner, Site
from services.hpc_launcher.reconcile import Nudge, RemoveOrphan, compare, overdue

_log = structlog.get_logger("farlab.hpc_launcher")

OVERDUE_SECONDS = 30.0
"""How long a session may rest in a state that demands something, before its message is taken for lost."""
LOOKED_AFTER = timedelta(days=1)
"""How long after their last session a user's jobs are still looked for: what a crash left appears within that."""


class Reconciler:
    """One system's reconciliation. `nudge` decides a session anew from its state alone."""

    def __init__(
        self,
        *,
        installation: str,
        system: System,
        site: Site,
        log: Log,
        subjects: Subjects,
        view: SessionView,
        nudge: Callable[[SessionId], Awaitable[None]],
        owners_per_round: int,
        now: Callable[[], datetime],
        clock: Callable[[], float],
    ) -> None:
        self._installation = installation
        self._system = system
        self._site = site
        self._log = log
        self._subjects = subjects
        self._view = view
        self._nudge = nudge
        self._owners_per_round = owners_per_round
        self._now = now
        self._clock = clock
        self._owners: OrderedDict[Owner, datetime] = OrderedDict()
        self._rests_since: dict[SessionId, float] = {}
        self._active = asyncio.Event()

    def observe(self, recorded: Recorded, before: SessionState, after: SessionState) -> None:
        """Takes an event that entered the view: whose jobs to look after, and which session rests where."""
        event = recorded.message
        if not isinstance(event, SessionEvent) or event.system != self._system.name:
            return
        if isinstance(after, Admitted | Ended) and (owner := _owner(after)) is not None:
            self._owners[owner] = event.at
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
                _log.info("reconciliation waits", system=self._system.name, reason=error.reason)
            except PermanentError as error:
                _log.warning("reconciliation refused", system=self._system.name, reason=error.reason)
            except Exception:
                _log.exception("reconciliation failed", system=self._system.name)
            await asyncio.sleep(every_seconds)

    async def reconcile(self) -> None:
        """One round: sessions that rest too long are decided anew, and the next few users' jobs are compared."""
        late = self._clock() - OVERDUE_SECONDS
        for session in [session for session, since in self._rests_since.items() if since <= late]:
            self._rests_since[session] = self._clock()
            await self._nudged(session)
        for owner in self._next_owners():
            await self._compare(owner)

    def _next_owners(self) -> list[Owner]:
        """The users whose turn it is; those long without a session are dropped."""
        live = {_owner(known.state) for _, known in self._view.live()}
        long_ago = self._now() - LOOKED_AFTER
        for owner, seen in list(self._owners.items()):
            if owner not in live and seen < long_ago:
                del self._owners[owner]
        turn = list(self._owners)[: self._owners_per_round]
        for owner in turn:
            self._owners.move_to_end(owner)
        return turn

    async def _compare(self, owner: Owner) -> None:
        known = {placed.state.job for _, placed in self._view.live() if isinstance(placed.state, WithJob)}
        found = await self._site.tagged_jobs(self._installation, owner, known)
        wanted = {job.session: await self._state(job.session) for job in found if job.session is not None}
        for step in compare(wanted, found):
            match step:
                case Nudge(session=session):
                    if session in self._rests_since and self._clock() - self._rests_since[session] >= OVERDUE_SECONDS:
                        await self._nudged(session)
                case RemoveOrphan(job=job, why=why):
                    _log.warning("orphan removed", system=self._system.name, job=job, reason=why)
                    await self._site.delete(job, owner)

    async def _state(self, session: SessionId) -> SessionState:
        """The session's state by the log itself: removing a job is not decided on a view that may be behind."""
        return placed(await self._log.history("SESSIONS", self._subjects.session(session))).state

    async def _nudged(self, session: SessionId) -> None:
        try:
            await self._nudge(session)
        except (TransientError, PermanentError) as error:
            _log.info("not settled yet", session=session, reason=error.reason)


def _owner(state: SessionState) -> Owner | None:
    """For whom the site runs the session's job, where it may run one."""
    if not isinstance(state, Admitted | WithJob | Ended) or state.admission is None:
        return None
    try:
        return script.owner_of(state.request, state.admission)
    except PermanentError:
        return None
