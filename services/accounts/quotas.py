"""Quotas as the fold of their events: who holds and used what, and whether more fits. Pure; appends nothing.

What is held is held until the session's end. A quota over time also counts, from the end on, what the session really
used, until its period is over; while the session lives it holds the most it can use.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Literal, NamedTuple

import msgspec

from schemas.acts import LimitRequested
from schemas.base import EventId, SessionId, SystemName, UserName
from schemas.quota import LimitOf, LimitSet, LimitValue, QuotaUpdated, Released, Reserved
from schemas.session import StartRequested, Use
from services.accounts.settings import OVER_TIME, Period, Quota

GIBIBYTE = 2**30
HOUR_SECONDS = 3600


class QuotaKey(NamedTuple):
    """Which quota."""

    vo: str
    system: str
    resource: str


def key_of(quota: Quota) -> QuotaKey:
    """The key of a configured quota."""
    return QuotaKey(quota.vo, quota.system, quota.resource)


class Share(msgspec.Struct, frozen=True):
    """What one session holds of a quota."""

    user: UserName
    amount: int


class QuotaState(msgspec.Struct, frozen=True):
    """A quota's use: shares by session, what users consumed in the period, and the limits operators set.

    `asked` are the acts by which they did.
    """

    shares: Mapping[SessionId, Share] = {}
    consumed: Mapping[UserName, int] = {}
    period_begins: datetime | None = None
    limits: Mapping[LimitOf, LimitValue] = {}
    asked: Mapping[LimitOf, EventId | None] = {}

    @property
    def used(self) -> int:
        """All that is held or was consumed in this period."""
        return sum(share.amount for share in self.shares.values()) + sum(self.consumed.values())

    def used_by(self, user: UserName) -> int:
        """What a user's sessions hold or consumed in this period."""
        held = sum(share.amount for share in self.shares.values() if share.user == user)
        return held + self.consumed.get(user, 0)

    def limit(self, quota: Quota, of: LimitOf) -> int | None:
        """The limit that holds: an operator's word over the configuration's; None: there is none."""
        match self.limits.get(of, "configured"):
            case "configured":
                return quota.limit if of == "all" else quota.per_user
            case "unlimited":
                return None
            case int(value):
                return value

    def in_period(self, begins: datetime | None) -> QuotaState:
        """The state in a period; what was consumed in an earlier one does not count any more."""
        if begins is None or (self.period_begins is not None and begins <= self.period_begins):
            return self
        return msgspec.structs.replace(self, consumed={}, period_begins=begins)


class Full(msgspec.Struct, frozen=True):
    """It does not fit, and what is in the way: the user's own use, or that of all."""

    quota: QuotaKey
    whose: Literal["user", "all"]
    message: str
    remedy: str


def period_begins(period: Period | None, now: datetime) -> datetime | None:
    """When the period that `now` lies in began, by UTC; weeks begin on Monday."""
    day = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    match period:
        case None:
            return None
        case "day":
            return day
        case "week":
            return day - timedelta(days=day.weekday())
        case "month":
            return day.replace(day=1)


def evolve(state: QuotaState, event: QuotaUpdated) -> QuotaState:
    """The quota after an event. A second reservation by a session and a second release change nothing."""
    here = state.in_period(event.period_begins)
    match event.change:
        case Reserved(session=session, user=user, amount=amount):
            shares = {session: Share(user, amount)} | dict(here.shares)
            return msgspec.structs.replace(here, shares=shares)
        case Released(session=session, user=user, consumed=consumed) if session in here.shares:
            left = {each: share for each, share in here.shares.items() if each != session}
            spent = {**here.consumed, user: here.consumed.get(user, 0) + consumed} if consumed else here.consumed
            return msgspec.structs.replace(here, shares=left, consumed=spent)
        case LimitSet(of=of, value=value):
            whose: LimitOf = of or "all"
            limits = {**here.limits, whose: "configured" if value is None else value}
            asked = {**here.asked, whose: event.cause}
            return msgspec.structs.replace(here, limits=limits, asked=asked)
        case _:
            return here


def full(
    state: QuotaState, quota: Quota, session: SessionId, user: UserName, amount: int, now: datetime
) -> Full | None:
    """Why a session's share does not fit; None when it does, or when the session holds it already."""
    here = state.in_period(period_begins(quota.period, now))
    if session in here.shares:
        return None
    key = key_of(quota)
    what = f"{_what(quota)} on {quota.system}"
    per_user, limit = here.limit(quota, "each-user"), here.limit(quota, "all")
    if per_user is not None and here.used_by(user) + amount > per_user:
        return Full(
            key,
            "user",
            f"You use {_said(quota, here.used_by(user))} of your {_said(quota, per_user)} {what}; this start needs "
            f"{_most(quota)}{_said(quota, amount)}.",
            _own_remedy(quota, amount > per_user),
        )
    if limit is not None and here.used + amount > limit:
        return Full(
            key,
            "all",
            f"All users together use {_said(quota, here.used)} of {_said(quota, limit)} {what}; this start needs "
            f"{_most(quota)}{_said(quota, amount)}.",
            "Ask for less." if amount > limit else "Try again later, ask for less, or choose another system.",
        )
    return None


def reserve(
    state: QuotaState, quota: Quota, session: SessionId, user: UserName, amount: int, now: datetime
) -> QuotaUpdated | Full | None:
    """The event that reserves, why it does not fit, or None when the session holds its share already."""
    if session in state.shares:
        return None
    if (why := full(state, quota, session, user, amount, now)) is not None:
        return why
    return updated(state, quota, Reserved(session=session, user=user, amount=amount), now)


def release(state: QuotaState, quota: Quota, session: SessionId, use: Use, now: datetime) -> QuotaUpdated | None:
    """The event that releases and counts what was used, or None when the session holds nothing."""
    share = state.shares.get(session)
    if share is None:
        return None
    consumed = {"core-seconds": use.core_seconds, "gpu-seconds": use.gpu_seconds}.get(quota.resource, 0)
    change = Released(session=session, user=share.user, amount=share.amount, consumed=consumed)
    return updated(state, quota, change, now)


def set_limit(state: QuotaState, quota: Quota, act: LimitRequested, now: datetime) -> QuotaUpdated | None:
    """The event that obeys an operator, or None when it was obeyed already."""
    if act.of in state.asked and state.asked[act.of] == act.id:
        return None
    change = LimitSet(by=act.by, reason=act.reason, of=act.of, value=act.value)
    return msgspec.structs.replace(updated(state, quota, change, now), cause=act.id)


def updated(state: QuotaState, quota: Quota, change: Reserved | Released | LimitSet, now: datetime) -> QuotaUpdated:
    """The event of a change, with what holds after it."""
    event = QuotaUpdated(
        vo=quota.vo,
        system=SystemName(quota.system),
        resource=quota.resource,
        used=0,
        change=change,
        period_begins=period_begins(quota.period, now),
    )
    after = evolve(state, event)
    return msgspec.structs.replace(
        event, used=after.used, limit=after.limit(quota, "all"), per_user=after.limit(quota, "each-user")
    )


def claims(
    request: StartRequested, quotas: Sequence[Quota], cores_of: Callable[[StartRequested], int]
) -> list[tuple[Quota, int]]:
    """Which quotas a start needs a share of, and how much. In the quotas' order, so that no two starts deadlock."""
    here = [quota for quota in quotas if quota.vo == request.vo and quota.system == request.system]
    if not here:
        return []
    asked = request.resources
    cores = cores_of(request)
    amounts = {
        "sessions": 1,
        "nodes": asked.nodes,
        "cores": cores,
        "gpus": asked.gpus,
        "memory-bytes": asked.memory_bytes or 0,
        "core-seconds": cores * asked.runtime_seconds,
        "gpu-seconds": asked.gpus * asked.runtime_seconds,
    }
    return [(quota, amounts[quota.resource]) for quota in here if amounts[quota.resource]]


def _what(quota: Quota) -> str:
    name = {
        "memory-bytes": "GiB of memory",
        "core-seconds": "core-hours",
        "gpu-seconds": "GPU-hours",
        "gpus": "GPUs",
    }.get(quota.resource, quota.resource)
    return f"{name} this {quota.period}" if quota.resource in OVER_TIME else name


def _said(quota: Quota, amount: int) -> str:
    """An amount in the unit that people use."""
    unit = {"memory-bytes": GIBIBYTE, "core-seconds": HOUR_SECONDS, "gpu-seconds": HOUR_SECONDS}.get(quota.resource)
    return str(amount) if unit is None else f"{amount / unit:.4g}"


def _most(quota: Quota) -> str:
    return "up to " if quota.resource in OVER_TIME else ""


def _own_remedy(quota: Quota, never: bool) -> str:
    if never:
        return "Ask for less."
    if quota.resource in OVER_TIME:
        return f"Ask for a shorter runtime or less, or wait for the next {quota.period}."
    return "Stop a server that you no longer need, or ask for less."
