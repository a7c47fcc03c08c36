"""What the live screen shows, made from events as they come: systems, starts, rates. Pure; draws nothing."""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Sequence
from datetime import datetime, timedelta

import msgspec

from schemas.base import SessionId
from schemas.lifecycle import Ended
from schemas.session import SessionEvent
from services._runtime.log import Recorded
from services.operator_cli.story.history import state_of
from services.operator_cli.story.row import Row, row

ENDED_KEPT = 200
"""How many ended sessions stay on the board, newest first."""
RATE_WINDOW = timedelta(minutes=1)
SLOW_AFTER = timedelta(minutes=2)
"""A start that is longer in one state than this is told apart."""
STARTING = ("requested", "waiting", "admitted", "created", "submitted", "listening", "reachable")
USED = ("ready", "interrupted")


class SystemLine(msgspec.Struct, frozen=True, kw_only=True):
    """One system: how many sessions are being started, used and stopped, and how many starts are slow."""

    system: str
    starting: int = 0
    used: int = 0
    stopping: int = 0
    slow: int = 0
    failed_lately: int = 0


class Board:
    """Sessions as the log tells them; feed it with `observe`."""

    def __init__(self) -> None:
        self._live: dict[SessionId, list[Recorded]] = {}
        self._ended: OrderedDict[SessionId, list[Recorded]] = OrderedDict()
        self._rows: dict[SessionId, Row] = {}
        self._times: deque[datetime] = deque()

    def observe(self, recorded: Recorded) -> None:
        """Takes the next event of the log."""
        event = recorded.message
        if not isinstance(event, SessionEvent):
            return
        self._times.append(event.at)
        history = self._ended.get(event.session) or self._live.setdefault(event.session, [])
        history.append(recorded)
        if (told := row(history)) is not None:
            self._rows[event.session] = told
        if isinstance(state_of(history), Ended):
            self._live.pop(event.session, None)
            self._ended[event.session] = history
            if len(self._ended) > ENDED_KEPT:
                self._rows.pop(self._ended.popitem(last=False)[0], None)

    def history(self, session: str) -> Sequence[Recorded]:
        """The events of a session on the board; none where it is not there any more."""
        return self._live.get(SessionId(session)) or self._ended.get(SessionId(session)) or []

    def events_a_minute(self, now: datetime) -> int:
        """How many events the last minute had."""
        while self._times and self._times[0] < now - RATE_WINDOW:
            self._times.popleft()
        return len(self._times)

    def sessions(self) -> list[Row]:
        """Live sessions, the slowest starts first, then the used ones, then what ended, newest first."""
        live = [self._rows[each] for each in self._live if each in self._rows]
        ended = [self._rows[each] for each in reversed(self._ended) if each in self._rows]
        return [*sorted(live, key=lambda each: (not _starts(each), each.since)), *ended]

    def systems(self, names: Sequence[str], now: datetime) -> list[SystemLine]:
        """A line for every system, whether anything runs there or not."""
        counts: dict[str, Counter[str]] = {name: Counter() for name in names}
        for session, each in self._rows.items():
            here = counts.setdefault(each.system, Counter())
            if session in self._live:
                here["starting" if _starts(each) else "used" if each.state in USED else "stopping"] += 1
                here["slow"] += is_slow(each, now)
            elif each.outcome in ("failed", "lost", "expired") and each.since >= now - timedelta(hours=1):
                here["failed_lately"] += 1
        return [SystemLine(system=name, **count) for name, count in counts.items()]


def is_slow(each: Row, now: datetime) -> bool:
    """Whether a start rests in its state for long."""
    return _starts(each) and now - each.since > SLOW_AFTER


def _starts(each: Row) -> bool:
    return each.state.partition(" ")[0] in STARTING
