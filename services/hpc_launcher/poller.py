"""Follows the jobs of one system: asks the site at an interval that fits each job, and records what changed.

Only the replica that holds the system's lease polls. Starts, stops and submits nothing but what a passed deadline or
the end of a job demands.
"""

from __future__ import annotations

import asyncio
import heapq
import random
from collections.abc import Callable
from functools import partial

import structlog

from schemas.base import SessionId
from schemas.lifecycle import SessionState, Submitted, WithStatus
from schemas.session import Running, SessionEvent
from services._runtime.errors import PermanentError, TransientError
from services._runtime.log import ConflictError, Recorded
from services._runtime.systems import System
from services._runtime.view import SessionView
from services.hpc_launcher.observe import Observer, Watched

_log = structlog.get_logger("farlab.hpc_launcher")

IDLE_SECONDS = 5.0


class Poller:
    """The jobs of one system. `active` says whether this replica polls now."""

    def __init__(
        self,
        *,
        system: System,
        view: SessionView,
        observer: Observer,
        clock: Callable[[], float],
    ) -> None:
        self._system = system
        self._view = view
        self._observer = observer
        self._clock = clock
        self._due: list[tuple[float, SessionId]] = []
        self._watched: dict[SessionId, Watched] = {}
        self._in_hand: dict[SessionId, asyncio.Task[None]] = {}
        self._wake = asyncio.Event()
        self._active = False

    def observe(self, recorded: Recorded, _before: SessionState, after: SessionState) -> None:
        """Takes an event that entered the view: a job to follow, or one that needs no following any more."""
        event = recorded.message
        if not isinstance(event, SessionEvent) or event.system != self._system.name:
            return
        if not isinstance(after, WithStatus):
            self._watched.pop(event.session, None)
        elif self._active and event.session not in self._watched:
            self._watch(event.session, self._clock())

    def activate(self, active: bool) -> None:
        """Begins or ceases to poll, as the lease is won or lost. It begins slowly, not with all jobs at once."""
        self._active = active
        self._due.clear()
        self._watched.clear()
        if active:
            now = self._clock()
            for session, placed in self._view.live():
                if isinstance(placed.state, WithStatus) and placed.state.request.system == self._system.name:
                    patience = 0.0 if isinstance(placed.state, Submitted) else self._system.site.longest_poll_seconds
                    self._watch(session, now + random.random() * patience)  # noqa: S311 - spread
        self._wake.set()

    def hint(self, session: SessionId) -> None:
        """Something may have happened to this job: ask soon."""
        placed = self._view.get(session)
        if placed is None or not isinstance(placed.state, WithStatus):
            return
        watched = self._watched.setdefault(session, Watched(changed_at=self._clock()))
        if session in self._in_hand:
            watched.hinted = True
        else:
            self._schedule(session, self._clock())

    async def run(self) -> None:
        """Polls for ever what is due. Ends by cancel."""
        try:
            while True:
                self._begin_due()
                self._wake.clear()
                await self._until_next()
        finally:
            for task in list(self._in_hand.values()):
                task.cancel()
            await asyncio.gather(*self._in_hand.values(), return_exceptions=True)

    async def poll(self, session: SessionId) -> None:
        """Asks once for a job and records what changed."""
        watched = self._watched.get(session)
        placed = self._view.get(session)
        if watched is None or placed is None or not isinstance(placed.state, WithStatus):
            self._watched.pop(session, None)
            return
        try:
            await self._observer.look(placed.state, watched)
        except (TransientError, ConflictError) as error:
            _log.info("not recorded yet", session=session, reason=str(error))
        except PermanentError as error:
            _log.warning("not followed", session=session, reason=error.reason)
            watched.errors += 1
        except Exception:
            _log.exception("polling failed", session=session)
            watched.errors += 1
        placed = self._view.get(session)
        if placed is not None and isinstance(placed.state, WithStatus) and session in self._watched:
            self._schedule(
                session, self._clock() + interval_seconds(placed.state, watched, self._clock(), self._system)
            )

    def _watch(self, session: SessionId, at: float) -> None:
        self._watched[session] = Watched(changed_at=self._clock())
        self._schedule(session, at)

    def _schedule(self, session: SessionId, at: float) -> None:
        self._watched[session].due_at = at
        heapq.heappush(self._due, (at, session))
        self._wake.set()

    def _begin_due(self) -> None:
        now = self._clock()
        while self._due and self._due[0][0] <= now and len(self._in_hand) < self._system.site.concurrent_requests:
            at, session = heapq.heappop(self._due)
            watched = self._watched.get(session)
            if watched is None or watched.due_at != at:
                continue
            if session in self._in_hand:
                watched.hinted = True  # due again before the last look is quite over: what is due must not get lost
                continue
            task = asyncio.create_task(self.poll(session))
            self._in_hand[session] = task
            task.add_done_callback(partial(self._done, session))

    def _done(self, session: SessionId, _task: asyncio.Task[None]) -> None:
        self._in_hand.pop(session, None)
        watched = self._watched.get(session)
        if watched is not None and watched.hinted:
            watched.hinted = False
            self._schedule(session, self._clock())
        self._wake.set()

    async def _until_next(self) -> None:
        full = len(self._in_hand) >= self._system.site.concurrent_requests
        seconds = IDLE_SECONDS if full or not self._due else max(0.0, self._due[0][0] - self._clock())
        try:
            async with asyncio.timeout(min(seconds, IDLE_SECONDS)):
                await self._wake.wait()
        except TimeoutError:
            return


def interval_seconds(state: WithStatus, watched: Watched, now: float, system: System) -> float:
    """When to ask next: often while a user waits for something that is about to happen, else the longer the quieter."""
    site = system.site
    shortest, longest = site.poll_seconds, site.longest_poll_seconds
    quiet_seconds = max(0.0, now - watched.changed_at)
    if watched.errors:
        wished = shortest * 2.0 ** min(watched.errors, 10)
    elif watched.missing:
        wished = shortest
    elif not isinstance(state, Submitted):
        wished = max(2 * shortest, quiet_seconds / 5)
    elif isinstance(state.job_status, Running):
        wished = max(shortest, quiet_seconds / 60)
    else:
        wished = max(shortest, quiet_seconds / 10)
    return min(wished, longest)
