"""Runs orders: chances, then calm, then everybody stops. Tells what was violated."""

from __future__ import annotations

import gc
from dataclasses import dataclass

from tests.simulation.orders.world import World, quiet

ROUNDS = 12
"""How often services look by themselves until all must be in order."""


@dataclass
class Result:
    """What came of a seed."""

    seed: int
    violations: list[tuple[str, str]]
    trace: list[str]
    steps: int
    appends: int
    outcomes: dict[str, int]


def run(seed: int, *, trace: bool = False, of: type[World] = World) -> Result:
    """One seed, exactly, of a kind of world."""
    quiet()
    world = of(seed, trace=trace)
    turns, random = world.turns, world.random
    with turns.taken():
        for _ in range(world.chances.moments):
            if random.random() < 0.3 or not turns.turn():
                world.happen()
            if world.violations:
                break
        world.cease()
        world.say("WORLD", "calm")
        _settle(world, world.unsettled)
        world.say("WORLD", "everybody stops")
        world.stop_all()
        _settle(world, world.invariants.left_over)
        turns.close()
    appends = len(world.broker.streams["SESSIONS"])
    return Result(seed, world.violations, world.trace or [], turns.steps, appends, world.outcomes())


def _settle(world: World, wrong) -> None:  # type: ignore[no-untyped-def]
    found: list[tuple[str, str]] = []
    for _ in range(ROUNDS):
        world.answer()
        world.invariants.routed()
        found = wrong()
        if not found or world.violations:
            return
        world.everybody_looks()
    world.violations += found


def some(first: int, count: int) -> tuple[int, list[Result]]:
    """Seeds one after the other: how many events they made, and those that failed."""
    appends, failed = 0, []
    gc.freeze()
    for seed in range(first, first + count):
        result = run(seed)
        appends += result.appends
        if result.violations:
            failed.append(result)
    return appends, failed
