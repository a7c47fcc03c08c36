"""Quotas as the fold of their events: who holds what, and whether more fits. Pure; appends nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from schemas.base import SessionId, SystemName, UserName
from schemas.quota import LimitSet, QuotaUpdated, Released, Reserved
from schemas.session import StartRequested
from services.accounts.settings import Quota


class Share(msgspec.Struct, frozen=True):
    """What one session holds of a quota."""

    user: UserName
    amount: int


class QuotaState(msgspec.Struct, frozen=True):
    """A quota's use: the shares by session."""

    shares: Mapping[SessionId, Share] = {}

    @property
    def used(self) -> int:
        """All that is held."""
        return sum(share.amount for share in self.shares.values())

    def used_by(self, user: UserName) -> int:
        """What a user's sessions hold."""
        return sum(share.amount for share in self.shares.values() if share.user == user)


class Full(msgspec.Struct, frozen=True):
    """It does not fit, and what is in the way."""

    message: str
    remedy: str


def evolve(state: QuotaState, event: QuotaUpdated) -> QuotaState:
    """The quota after an event. A second reservation by a session and a second release change nothing."""
    match event.change:
        case Reserved(session=session, user=user, amount=amount):
            return QuotaState({session: Share(user, amount)} | dict(state.shares))
        case Released(session=session):
            return QuotaState({each: share for each, share in state.shares.items() if each != session})
        case LimitSet():
            return state


def reserve(
    state: QuotaState, quota: Quota, session: SessionId, user: UserName, amount: int
) -> QuotaUpdated | Full | None:
    """The event that reserves, why it does not fit, or None when the session holds its share already."""
    if session in state.shares:
        return None
    what = f"{quota.resource} on {quota.system}"
    if quota.per_user is not None and state.used_by(user) + amount > quota.per_user:
        return Full(
            f"You use {state.used_by(user)} of your {quota.per_user} {what}; this start needs {amount}.",
            "Stop a server that you no longer need, or ask for less.",
        )
    if quota.limit is not None and state.used + amount > quota.limit:
        return Full(
            f"All users together hold {state.used} of {quota.limit} {what}; this start needs {amount}.",
            "Try again later, ask for less, or choose another system.",
        )
    return _updated(quota, state.used + amount, Reserved(session=session, user=user, amount=amount))


def release(state: QuotaState, quota: Quota, session: SessionId) -> QuotaUpdated | None:
    """The event that releases, or None when the session holds nothing."""
    share = state.shares.get(session)
    if share is None:
        return None
    change = Released(session=session, user=share.user, amount=share.amount)
    return _updated(quota, state.used - share.amount, change)


def _updated(quota: Quota, used: int, change: Reserved | Released) -> QuotaUpdated:
    return QuotaUpdated(
        vo=quota.vo,
        system=SystemName(quota.system),
        resource=quota.resource,
        limit=quota.limit,
        used=used,
        change=change,
    )


def claims(request: StartRequested, quotas: Sequence[Quota]) -> list[tuple[Quota, int]]:
    """Which quotas a start needs a share of, and how much. In the quotas' order, so that no two starts deadlock."""
    asked = request.resources
    amounts = {"sessions": 1, "nodes": asked.nodes, "cores": asked.cores or 0, "gpus": asked.gpus}
    return [
        (quota, amounts[quota.resource])
        for quota in quotas
        if quota.vo == request.vo and quota.system == request.system and amounts[quota.resource]
    ]
