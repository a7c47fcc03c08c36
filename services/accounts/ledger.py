"""The quotas of an installation on the log: reserves and releases each share exactly once. Judges no start."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence

import msgspec
import structlog

from schemas.acts import LimitRequested
from schemas.base import SessionId
from schemas.quota import QuotaUpdated
from schemas.session import StartRequested, Use
from schemas.subjects import Subjects
from services._runtime.identity import Stamp
from services._runtime.log import ConflictError, Log, Recorded, Subscription
from services.accounts.quotas import (
    Full,
    QuotaKey,
    QuotaState,
    claims,
    evolve,
    full,
    key_of,
    release,
    reserve,
    set_limit,
)
from services.accounts.settings import OVER_TIME, Quota, QuotaResource

_log = structlog.get_logger("farlab.accounts.ledger")

Watch = Callable[[QuotaUpdated], None]
"""Called with every change of a quota, whoever made it."""


class _Account(msgspec.Struct, frozen=True):
    state: QuotaState = QuotaState()
    sequence: int = 0


class Ledger:
    """Every quota's use, folded from the stream QUOTAS, and changed by compare-and-append on that quota's subject.

    A share is given back only when its session is over. A try that stopped half-way leaves what it reserved, for two
    replicas may try at once, and only the session's own log says which of them admitted it.
    """

    def __init__(
        self,
        log: Log,
        subjects: Subjects,
        stamp: Stamp,
        quotas: Sequence[Quota],
        cores_of: Callable[[StartRequested], int],
    ) -> None:
        self._log = log
        self._subjects = subjects
        self._stamp = stamp
        self._cores_of = cores_of
        self._configured = {key_of(quota): quota for quota in quotas}
        self._quotas = sorted(quotas, key=key_of)
        self._accounts: dict[QuotaKey, _Account] = defaultdict(_Account)
        self._locks: dict[QuotaKey, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._watches: list[Watch] = []

    async def follow(self) -> Subscription:
        """Reads all changes there are, and follows those that come."""
        return await self._log.follow("QUOTAS", [self._subjects.family("quota")], self.take)

    def watch(self, watch: Watch) -> None:
        """Calls `watch` for every change from now on."""
        self._watches.append(watch)

    def claims(self, request: StartRequested) -> list[QuotaKey]:
        """The quotas that a start needs a share of."""
        return [key_of(quota) for quota, _ in self._claims(request)]

    def fulls(self, request: StartRequested) -> list[Full]:
        """Every quota that a start does not fit into now."""
        now = self._stamp.now()
        found = (
            full(self._accounts[key_of(quota)].state, quota, request.session, request.user, amount, now)
            for quota, amount in self._claims(request)
        )
        return [each for each in found if each is not None]

    async def reserve(self, request: StartRequested) -> Full | None:
        """Takes the start's share of every quota it needs, or says what is full. Safe to repeat."""
        if found := self.fulls(request):
            return found[0]
        for quota, amount in self._claims(request):
            why = await self._reserve(quota, request, amount)
            if why is not None:
                return why
        return None

    async def release(self, session: SessionId, use: Use) -> None:
        """Gives back all the session holds, and counts what it used. Safe to repeat."""
        for quota in self._quotas:
            key = key_of(quota)
            async with self._locks[key]:
                while (event := release(self._accounts[key].state, quota, session, use, self._stamp.now())) is not None:
                    if await self._append(key, event):
                        break

    async def obey(self, act: LimitRequested) -> None:
        """Sets a limit as an operator asked. Safe to repeat."""
        key = QuotaKey(act.vo, act.system, act.resource)
        quota = self._configured.get(key) or _bare(key)
        if quota is None:
            _log.warning("no such resource", quota=".".join(key), by=act.by)
            return
        async with self._locks[key]:
            while (event := set_limit(self._accounts[key].state, quota, act, self._stamp.now())) is not None:
                if await self._append(key, event):
                    _log.info("limit set", quota=".".join(key), of=act.of, value=act.value, by=act.by)
                    break

    def holders(self) -> Iterator[SessionId]:
        """The sessions that hold a share of any quota."""
        return iter({session for account in list(self._accounts.values()) for session in account.state.shares})

    def when_full(self, key: QuotaKey) -> str:
        """The policy of a quota: `wait` or `reject`."""
        quota = self._configured.get(key)
        return "reject" if quota is None else quota.when_full

    def take(self, recorded: Recorded) -> None:
        """Takes a change from the log. Each counts once."""
        event = recorded.message
        if not isinstance(event, QuotaUpdated):
            return
        key = QuotaKey(event.vo, event.system, event.resource)
        account = self._accounts[key]
        if recorded.sequence <= account.sequence:
            return
        self._accounts[key] = _Account(evolve(account.state, event), recorded.sequence)
        if all(key_of(known) != key for known in self._quotas) and (quota := _bare(key)) is not None:
            self._quotas = sorted([*self._quotas, quota], key=key_of)
        for watch in self._watches:
            watch(event)

    def _claims(self, request: StartRequested) -> list[tuple[Quota, int]]:
        return claims(request, self._quotas, self._cores_of)

    async def _reserve(self, quota: Quota, request: StartRequested, amount: int) -> Full | None:
        key = key_of(quota)
        async with self._locks[key]:
            while True:
                state = self._accounts[key].state
                answer = reserve(state, quota, request.session, request.user, amount, self._stamp.now())
                if not isinstance(answer, QuotaUpdated):
                    return answer
                if await self._append(key, answer):
                    return None

    async def _append(self, key: QuotaKey, event: QuotaUpdated) -> bool:
        """Whether the change is in the log; if not, another replica was faster and the account is up to date now."""
        after = self._accounts[key].sequence
        stamped = self._stamp(event, after=after, cause=None)
        subject = self._subjects.quota_updated(stamped)
        try:
            sequence = await self._log.append("QUOTAS", subject, stamped, scope=subject, after=after)
        except ConflictError as conflict:
            for recorded in conflict.history:
                self.take(recorded)
            self._go_on_after(key, conflict.history)
            return False
        self.take(Recorded(sequence, stamped))
        return True

    def _go_on_after(self, key: QuotaKey, history: Sequence[Recorded]) -> None:
        """What this build cannot read changes nothing here, and yet the next change must come after it."""
        account = self._accounts[key]
        last = history[-1].sequence if history else 0
        if last > account.sequence:
            self._accounts[key] = _Account(account.state, last)


def _bare(key: QuotaKey) -> Quota | None:
    """A quota that only the log knows: an operator set it, or it was configured once. None: of no known resource."""
    try:
        resource: QuotaResource = msgspec.convert(key.resource, QuotaResource)
    except msgspec.ValidationError:
        return None
    return Quota(vo=key.vo, system=key.system, resource=resource, period="month" if resource in OVER_TIME else None)
