"""A session in one line, and which lines an operator asked for. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import Literal

import msgspec

from schemas.base import SessionId
from schemas.lifecycle import Ended
from services.operator_cli.story.history import History, request_of, state_name, state_of


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One session in a list."""

    session: SessionId
    user: str
    server_name: str
    vo: str
    system: str
    state: str
    since: datetime
    started: datetime
    outcome: str = ""
    reason: str = ""


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What an operator asks for; an empty field asks for nothing."""

    user: str = ""
    system: str = ""
    vo: str = ""
    state: str = ""
    live: bool = False
    started_after: datetime | None = None
    in_state_longer_than: timedelta | None = None


def row(history: History) -> Row | None:
    """A session's row in a list; None when its beginning is not in the log any more."""
    request = request_of(history)
    if request is None:
        return None
    state = state_of(history)
    end = state.end if isinstance(state, Ended) else None
    return Row(
        session=request.session,
        user=request.user,
        server_name=request.server_name,
        vo=request.vo,
        system=request.system,
        state=state_name(state),
        since=history[-1].message.at,
        started=request.at,
        outcome=end.outcome if end else "",
        reason=end.reason if end else "",
    )


def is_wanted(each: Row, wanted: Wanted, now: datetime) -> bool:
    """Whether a row is among what was asked for."""
    return (
        (not wanted.user or each.user == wanted.user)
        and (not wanted.system or each.system == wanted.system)
        and (not wanted.vo or each.vo == wanted.vo)
        and (not wanted.state or each.state.partition(" ")[0] == wanted.state)
        and not (wanted.live and each.state == "ended")
        and (wanted.started_after is None or each.started >= wanted.started_after)
        and (wanted.in_state_longer_than is None or now - each.since >= wanted.in_state_longer_than)
    )


Order = Literal["started", "since", "user", "system", "state"]
ORDERS: dict[Order, Callable[[Row], tuple[object, ...]]] = {
    "started": lambda each: (each.started, each.session),
    "since": lambda each: (each.since, each.session),
    "user": lambda each: (each.user, each.started),
    "system": lambda each: (each.system, each.started),
    "state": lambda each: (each.state, each.started),
}
"""By what a list can be sorted."""


def rows(histories: Iterable[History], wanted: Wanted, now: datetime, order: Order = "started") -> list[Row]:
    """The sessions asked for, in order."""
    found = [each for history in histories if (each := row(history)) is not None and is_wanted(each, wanted, now)]
    return sorted(found, key=ORDERS[order])
