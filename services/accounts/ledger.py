"""The quotas of an installation on the log: reserves and releases each share exactly once. Judges no start."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterator, Sequence

import msgspec
import structlog

from schemas.base import SessionId
from schemas.quota import QuotaUpdated
from schemas.session import StartRequested
from schemas.subjects import Subjects
from services._runtime.identity import Stamp
from services._runtime.log import ConflictError, Log, Recorded, Subscription
from services.accounts.quotas import Full, QuotaState, claims, evolve, release, reserve
from services.accounts.settings import Quota

_log = structlog.get_logger("farlab.accounts.ledger")


class _Account(msgspec.Struct, frozen=True):
    state: QuotaState = QuotaState()
    sequence: int = 0


class Ledger:
    """Every quota's use, folded from the stream QUOTAS, and changed by compare-and-append on that quota's subject."""

    def __init__(self, log: Log, subjects: Subjects, stamp: Stamp, quotas: Sequence[Quota]) -> None:
        self._log = log
        self._subjects = subjects
        self._stamp = stamp
        self._quotas = sorted(quotas, key=lambda quota: (quota.vo, quota.system, quota.resource))
        self._accounts: dict[str, _Account] = defaultdict(_Account)
        self._locks: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def follow(self) -> Subscription:
        """Reads all changes there are, and follows those that come."""
        return await self._log.follow("QUOTAS", [self._subjects.family("quota")], self._take)

    async def reserve(self, request: StartRequested) -> Full | None:
        """Takes the start's share of every quota it needs, or none of any and says what is full. Safe to repeat."""
        for quota, amount in claims(request, self._quotas):
            full = await self._reserve(quota, request, amount)
            if full is not None:
                await self.release(request.session)
                return full
        return None

    async def release(self, session: SessionId) -> None:
        """Gives back all the session holds. Safe to repeat."""
        for quota in self._quotas:
            async with self._locks[self._scope(quota)]:
                while (event := release(self._account(quota).state, quota, session)) is not None:
                    if await self._append(quota, event):
                        break

    def holders(self) -> Iterator[SessionId]:
        """The sessions that hold a share of any quota."""
        return iter({session for account in list(self._accounts.values()) for session in account.state.shares})

    async def _reserve(self, quota: Quota, request: StartRequested, amount: int) -> Full | None:
        async with self._locks[self._scope(quota)]:
            while True:
                answer = reserve(self._account(quota).state, quota, request.session, request.user, amount)
                if not isinstance(answer, QuotaUpdated):
                    return answer
                if await self._append(quota, answer):
                    return None

    async def _append(self, quota: Quota, event: QuotaUpdated) -> bool:
        """Whether the change is in the log; if not, another replica was faster and the account is up to date now."""
        after = self._account(quota).sequence
        stamped = self._stamp(event, after=after, cause=None)
        try:
            sequence = await self._log.append(
                "QUOTAS", self._subjects.quota_updated(stamped), stamped, scope=self._scope(quota), after=after
            )
        except ConflictError as conflict:
            for recorded in conflict.history:
                self._take(recorded)
            self._go_on_after(quota, conflict.history)
            return False
        self._take(Recorded(sequence, stamped))
        return True

    def _go_on_after(self, quota: Quota, history: Sequence[Recorded]) -> None:
        """What this build cannot read changes nothing here, and yet the next change must come after it."""
        account = self._account(quota)
        last = history[-1].sequence if history else 0
        if last > account.sequence:
            self._accounts[self._scope(quota)] = _Account(account.state, last)

    def _take(self, recorded: Recorded) -> None:
        event = recorded.message
        if isinstance(event, QuotaUpdated):
            scope = self._subjects.quota_updated(event)
            account = self._accounts[scope]
            if recorded.sequence > account.sequence:
                self._accounts[scope] = _Account(evolve(account.state, event), recorded.sequence)

    def _account(self, quota: Quota) -> _Account:
        return self._accounts[self._scope(quota)]

    def _scope(self, quota: Quota) -> str:
        return f"{self._subjects.quota(quota.vo, quota.system, quota.resource)}.quota-updated"
