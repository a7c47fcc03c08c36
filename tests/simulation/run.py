"""Runs scenarios: chaos, then calm, then everybody stops. Tells what was violated, and which faults it takes."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import structlog

from services._runtime.errors import PermanentError, TransientError
from services._runtime.log import ConflictError
from tests.simulation.scenario import Scenario, scenario
from tests.simulation.world import World

SETTLE_SECONDS = 300.0
"""How long after the last fault every session must be over, or ready and reached."""
CLEAR_SECONDS = 240.0
"""How long after the last stop nothing may be left anywhere."""
LOOK_SECONDS = 5.0

_current: World | None = None


@dataclass
class Result:
    """What came of a scenario."""

    scenario: Scenario
    violations: list[tuple[str, str]]
    trace: list[str]
    sessions: int
    appends: int
    steps: int
    virtual_seconds: float
    settled_after: float
    cleared_after: float
    digest: str

    @property
    def kinds(self) -> set[str]:
        return {kind for kind, _ in self.violations}


def watch_logs() -> None:
    """A defect that a service only logs is one all the same; everything else it says is for the timeline."""

    def watch(_logger: object, method: str, event: Any) -> Any:
        world = _current
        if world is not None:
            told = event.get("exc_info")
            error = told if isinstance(told, BaseException) else sys.exc_info()[1] if told else None
            if error is not None and not isinstance(error, TransientError | PermanentError | ConflictError):
                world.defect(f"{event.get('event')}: {error!r}")
            elif world.trace is not None and method != "debug":
                owner = world.speaking()
                rest = {k: v for k, v in event.items() if k not in ("event", "exc_info", "system", "event_type")}
                world.say(owner, f"· {event.get('event')} {rest}"[:230])
        raise structlog.DropEvent

    structlog.configure(processors=[watch], cache_logger_on_first_use=True)


def run(seed: int, only_faults: list[int] | None = None, trace: bool = False) -> Result:
    """Runs the scenario of a seed from its beginning to its end."""
    global _current
    chosen = scenario(seed, only_faults)
    world = _current = World(chosen, trace)
    loop = world.loop
    try:
        for process in world.processes.values():
            loop.at(world.random.random() * 0.1, process.start)
        for press in chosen.presses:
            loop.at(press.at + 0.5, world.press, press)
        for number in chosen.chosen:
            loop.at(chosen.faults[number].at, world.apply, chosen.faults[number])
        _phase(world, chosen.chaos_seconds, world.invariants.routed)
        world.cease()
        settled = _until(world, world.invariants.unsettled, SETTLE_SECONDS)
        cleared = 0.0
        if not world.violations:
            world.say("WORLD", "everybody stops")
            while not world.press_all_stops() and loop.now < 10_000:
                loop.run(loop.now + 1.0, lambda: bool(world.violations))
            cleared = _until(world, world.invariants.left_over, CLEAR_SECONDS)
        for failure in loop.failed_tasks():
            world.defect(failure)
        digest = f"{loop.steps}-{world.random.getrandbits(64):x}"
        return Result(
            chosen,
            world.violations,
            world.trace or [],
            len(world.invariants.states),
            world.appends,
            loop.steps,
            loop.now,
            settled,
            cleared,
            digest,
        )
    finally:
        world.over = True
        loop.close()
        _current = None


def _phase(world: World, seconds: float, look: Any) -> None:
    loop = world.loop
    end = loop.now + seconds
    while loop.now < end and not world.violations:
        loop.run(min(end, loop.now + LOOK_SECONDS / 2), lambda: bool(world.violations))
        look()


def _until(world: World, wrong: Any, seconds: float) -> float:
    """Runs until nothing is wrong; what is still wrong after the bound is a violation. How long it took."""
    loop = world.loop
    begun = loop.now
    while not world.violations:
        loop.run(loop.now + LOOK_SECONDS, lambda: bool(world.violations))
        world.invariants.routed()
        found = wrong()
        if not found and not world.violations:
            return loop.now - begun
        if loop.now - begun >= seconds:
            for kind, what in found:
                world.violated(kind, f"{what}, {seconds:.0f} s after the last fault or stop")
            break
    return loop.now - begun


def shrunk(failed: Result) -> Result:
    """The same seed with as few of its faults as still show the same kind of violation."""
    kind = failed.violations[0][0]
    chosen, best = list(failed.scenario.chosen), failed
    again = True
    while again:
        again = False
        for number in list(chosen):
            fewer = [each for each in chosen if each != number]
            result = run(failed.scenario.seed, fewer)
            if kind in result.kinds:
                chosen, best, again = fewer, result, True
    return run(best.scenario.seed, chosen, trace=True)
