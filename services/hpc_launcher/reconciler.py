"""Reconciles a site's jobs, a few users at a time. Follows no job."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta

from schemas.base import SessionId
from schemas.lifecycle import Admitted, Ended, SessionState, WithJob
from schemas.session import SessionEvent
from schemas.subjects import Subjects
from services._launching.reconciliation import Reconciliation
from services._runtime.errors import PermanentError
from services._runtime.log import Log, Recorded
from services._runtime.systems import System
from services._runtime.view import SessionView
from services.hpc_launcher import script
from services.hpc_launcher.ports import Owner, Site

LOOKED_AFTER = timedelta(days=1)
"""How long after their last session a user's jobs are still looked for: what a crash left appears within that."""


class Reconciler(Reconciliation):
    """One site's reconciliation. `nudge` decides a session anew from its state alone."""

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
        super().__init__(system=system.name, log=log, subjects=subjects, nudge=nudge, clock=clock)
        self._installation = installation
        self._site = site
        self._view = view
        self._owners_per_round = owners_per_round
        self._now = now
        self._owners: OrderedDict[Owner, datetime] = OrderedDict()

    def observe(self, recorded: Recorded, before: SessionState, after: SessionState) -> None:
        """Takes an event that entered the view: whose jobs to look after, too."""
        super().observe(recorded, before, after)
        event = recorded.message
        if not isinstance(event, SessionEvent) or event.system != self._system:
            return
        if isinstance(after, Admitted | Ended) and (owner := _owner(after)) is not None:
            self._owners[owner] = event.at

    async def compare(self) -> None:
        """Compares the jobs of the next few users."""
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
        await self.settle(found, lambda orphan: self._site.delete(orphan.job, owner))


def _owner(state: SessionState) -> Owner | None:
    """For whom the site runs the session's job, where it may run one."""
    if not isinstance(state, Admitted | WithJob | Ended) or state.admission is None:
        return None
    try:
        return script.owner_of(state.request, state.admission)
    except PermanentError:
        return None
