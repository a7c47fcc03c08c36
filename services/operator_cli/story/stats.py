"""How long starts take, by phase and system, and why sessions fail: figures over many histories. Pure."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

import msgspec

from schemas.lifecycle import Ended
from services.operator_cli.story.history import History, request_of, state_of
from services.operator_cli.story.phases import PHASES, phases, start_seconds

WHOLE_START = "start"


class Spread(msgspec.Struct, frozen=True, kw_only=True):
    """How long a phase took on a system, in seconds, over `count` sessions (nearest-rank percentiles)."""

    system: str
    phase: str
    count: int
    p50: float
    p90: float
    p99: float
    longest: float


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """How often sessions on a system ended in this way, for this reason."""

    system: str
    outcome: str
    reason: str
    count: int


class Stats(msgspec.Struct, frozen=True, kw_only=True):
    """The figures over a window."""

    sessions: int
    ready: int
    live: int
    spreads: list[Spread]
    failures: list[Failure]


def stats(histories: Iterable[History]) -> Stats:
    """The figures over these sessions."""
    lasted: dict[tuple[str, str], list[float]] = defaultdict(list)
    failures: Counter[tuple[str, str, str]] = Counter()
    sessions = ready = live = 0
    for history in histories:
        request = request_of(history)
        if request is None:
            continue
        sessions += 1
        state = state_of(history)
        live += not isinstance(state, Ended)
        if isinstance(state, Ended) and state.end.outcome not in ("stopped", "finished"):
            failures[request.system, state.end.outcome, state.end.reason] += 1
        if (whole := start_seconds(history)) is not None:
            ready += 1
            lasted[request.system, WHOLE_START].append(whole)
        for phase in phases(history):
            if phase.seconds is not None:
                lasted[request.system, phase.name].append(phase.seconds)
    order = [WHOLE_START, *(name for name, _ in PHASES), "use", "stop"]
    keys = sorted(lasted, key=lambda key: (key[0], order.index(key[1])))
    return Stats(
        sessions=sessions,
        ready=ready,
        live=live,
        spreads=[_spread(system, phase, sorted(lasted[system, phase])) for system, phase in keys],
        failures=[
            Failure(system=system, outcome=outcome, reason=reason, count=count)
            for (system, outcome, reason), count in failures.most_common()
        ],
    )


def percentile(ordered: Sequence[float], percent: float) -> float:
    """The nearest-rank percentile of ordered values."""
    return ordered[max(math.ceil(percent / 100 * len(ordered)) - 1, 0)]


def _spread(system: str, phase: str, ordered: Sequence[float]) -> Spread:
    p50, p90, p99 = (percentile(ordered, percent) for percent in (50, 90, 99))
    return Spread(system=system, phase=phase, count=len(ordered), p50=p50, p90=p90, p99=p99, longest=ordered[-1])
