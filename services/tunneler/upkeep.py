"""Keeps tunnels true over time: checks their data paths, takes over from dead replicas, picks up what was missed."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping

import structlog

from schemas.base import SessionId, SystemName
from schemas.lifecycle import Interrupted, Listening, SessionState, WithTunnel
from schemas.session import TunnelLost
from services._runtime.errors import PermanentError, TransientError
from services._runtime.leases import holders
from services._runtime.log import Bucket
from services._runtime.session_service import SessionService
from services.tunneler.decide import Command
from services.tunneler.ports import LostError, Ways
from services.tunneler.settings import TunnelerSettings

_log = structlog.get_logger("farlab.tunneler.upkeep")

REPLICA_LEASES = "tunneler.replica."
PATIENCE_SECONDS = 4.0
"""How long a server may wait for a tunnel before someone else than the handler of its event looks after it."""
CHECKS_AT_ONCE = 32

Check = Callable[[SessionId, SessionState], Awaitable[None]]


class Upkeep:
    """The level-triggered half of the tunneler."""

    def __init__(
        self,
        *,
        sessions: SessionService[Command],
        leases: Bucket,
        ways: Mapping[SystemName, Ways],
        replica: str,
        check: Check,
        settings: TunnelerSettings,
    ) -> None:
        self._sessions = sessions
        self._leases = leases
        self._ways = ways
        self._replica = replica
        self._check = check
        self._settings = settings
        self._due: dict[SessionId, float] = {}
        self._waiting_since: dict[SessionId, float] = {}
        self._room = asyncio.Semaphore(CHECKS_AT_ONCE)

    async def run(self) -> None:
        """Looks after all sessions, for ever. Ends by cancel."""
        while True:
            try:
                await self.round()
            except TransientError as error:
                _log.info("upkeep waits", reason=error.reason)
            except Exception:
                _log.exception("upkeep failed")
            await self._pause()

    async def _pause(self) -> None:
        """Until the next round, or at once when the way to a system came back."""
        waiters = [asyncio.ensure_future(ways.came_back.wait()) for ways in self._ways.values()]
        try:
            await asyncio.wait(waiters, timeout=self._settings.reconcile_seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for waiter in waiters:
                waiter.cancel()
        for name, ways in self._ways.items():
            if ways.came_back.is_set():
                ways.came_back.clear()
                for session, placed in self._sessions.view.live():
                    if isinstance(placed.state, WithTunnel) and placed.state.request.system == name:
                        self._due[session] = 0.0

    async def round(self) -> None:
        """One look at every session."""
        now = asyncio.get_running_loop().time()
        alive = set((await holders(self._leases, REPLICA_LEASES)).values()) | {self._replica}
        work: list[Awaitable[None]] = []
        live = dict(self._sessions.view.live())
        for session, placed in live.items():
            state = placed.state
            if isinstance(state, WithTunnel):
                self._waiting_since.pop(session, None)
                if state.tunnel.replica == self._replica:
                    if now >= self._due.setdefault(session, now + self._spread()):
                        self._due[session] = now + self._spread()
                        work.append(self._checked(session, state))
                elif state.tunnel.replica not in alive:
                    work.append(self._lost(state, f"tunneler {state.tunnel.replica} is gone"))
            elif isinstance(state, Listening | Interrupted):
                since = self._waiting_since.setdefault(session, now)
                if now - since > PATIENCE_SECONDS:
                    work.append(self._nudged(session))
        for known in (self._due, self._waiting_since):
            for session in known.keys() - live.keys():
                del known[session]
        await asyncio.gather(*work)

    def _spread(self) -> float:
        return self._settings.check_seconds * random.uniform(0.75, 1.25)  # noqa: S311 - jitter, not a secret

    async def _checked(self, session: SessionId, state: SessionState) -> None:
        async with self._room:
            try:
                await self._check(session, state)
            except LostError as error:
                await self._lost(state, str(error))
            except (TransientError, PermanentError) as error:
                _log.info("not checked", session=session, reason=error.reason)

    async def _lost(self, state: SessionState, reason: str) -> None:
        """Says that a tunnel is lost; the decider then builds another, here."""
        if not isinstance(state, WithTunnel):
            return
        request = state.request
        _log.warning("tunnel lost", session=request.session, reason=reason)
        event = TunnelLost(
            hub=request.hub,
            system=request.system,
            session=request.session,
            generation=state.tunnel.generation,
            reason=reason[:1024],
        )
        try:
            await self._sessions.consumer.record(event)
        except TransientError as error:
            _log.info("tunnel not rebuilt yet", session=request.session, reason=error.reason)

    async def _nudged(self, session: SessionId) -> None:
        async with self._room:
            try:
                await self._sessions.consumer.nudge(session)
            except TransientError as error:
                _log.info("no tunnel yet", session=session, reason=error.reason)
