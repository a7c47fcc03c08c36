"""Who waits for a share, whose turn it is, and who must not be overtaken. Pure; admits nobody.

There is a line for each virtual organisation at each system. It is fair between users and then by age: a user's second
start stands behind everybody's first, and what a user runs already counts as starts before.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta

import msgspec

from schemas.base import SessionId, SystemName, UserName
from schemas.session import StartRequested
from services.accounts.quotas import Full, QuotaKey
from services.accounts.settings import Waiting


class Standing(msgspec.Struct, frozen=True):
    """A start in the line: its place, counting from 1, and what keeps it there; nothing when it is its turn."""

    request: StartRequested
    place: int
    kept_by: Full | None


class TooLong(msgspec.Struct, frozen=True):
    """A start may not wait (any more)."""

    code: str
    message: str
    remedy: str


Fulls = Callable[[StartRequested], Sequence[Full]]
"""Every quota that a start does not fit into now."""
Claims = Callable[[StartRequested], Iterable[QuotaKey]]
"""Every quota that a start needs a share of."""


def in_turn(waiting: Iterable[StartRequested], running: Mapping[UserName, int]) -> list[StartRequested]:
    """The starts in the order of their turns; `running` is how many sessions each user has there already."""
    before: Counter[UserName] = Counter(running)
    ranked: list[tuple[int, datetime, SessionId, StartRequested]] = []
    for request in sorted(waiting, key=lambda each: (each.at, each.session)):
        ranked.append((before[request.user], request.at, request.session, request))
        before[request.user] += 1
    return [request for *_, request in sorted(ranked, key=lambda each: each[:3])]


def standings(ordered: Iterable[StartRequested], fulls: Fulls, claims: Claims) -> list[Standing]:
    """Where each start of a line stands. What is kept from an earlier one by all is not given to a later one.

    A user who is kept by a limit of his own keeps nobody else.
    """
    kept: dict[QuotaKey, Full] = {}
    found: list[Standing] = []
    for place, request in enumerate(ordered, 1):
        here = fulls(request)
        wanted = list(claims(request))
        ahead = next((kept[key] for key in wanted if key in kept), None)
        found.append(Standing(request, place, here[0] if here else ahead))
        if not here and ahead is None:
            for key in wanted:  # his turn has come: nobody takes it while it is being given to him
                kept.setdefault(key, _soon(key))
        for each in here:
            if each.whose == "all":
                kept.setdefault(each.quota, each)
    return found


def _soon(key: QuotaKey) -> Full:
    return Full(key, "all", f"Somebody before you is about to get {key.resource} on {key.system}.", "Wait a moment.")


def may_wait(
    request: StartRequested, line: Sequence[StartRequested], waiting: Waiting, now: datetime
) -> TooLong | None:
    """Why a start may not (go on to) wait; `line` is who waits already, itself perhaps among them."""
    until = min(request.at + timedelta(seconds=waiting.longest_seconds), request.deadline)
    if now >= until:
        return TooLong(
            "waited-too-long",
            f"Its turn did not come within {(until - request.at).total_seconds() / 60:.0f} min.",
            "Try again later, ask for less, or choose another system.",
        )
    if any(each.session == request.session for each in line):
        return None
    own = sum(each.user == request.user for each in line)
    if own >= waiting.most_per_user:
        return TooLong(
            "too-many-waiting",
            f"{own} of your starts wait for this system already.",
            "Wait for one of them, or cancel one.",
        )
    if len(line) >= waiting.most:
        return TooLong(
            "line-too-long",
            f"{len(line)} starts wait for this system already.",
            "Try again later, or choose another system.",
        )
    return None


Line = tuple[str, SystemName]


def line_of(request: StartRequested) -> Line:
    """The line a start belongs to."""
    return request.vo, request.system
