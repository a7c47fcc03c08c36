"""`python -m tests.simulation.deciders`: new seeds for as long as it is told, one seed again, or planted defects."""

from __future__ import annotations

import argparse
import os
import secrets
import sys
import time
from concurrent.futures import ProcessPoolExecutor

from tests.simulation.deciders.world import World
from tests.simulation.mutations import PLANTED_FOR_DECIDERS, planted

AT_ONCE = 500
MUTATION_SEEDS = 20_000
SEES = (
    "accounts_never_release",
    "accounts_leave_withdrawn_starts",
    "accounts_leave_rejected_starts",
    "created_jobs_are_not_submitted",
    "stops_are_not_carried_out",
    "a_passed_deadline_ends_a_job_that_may_run",
    "nothing_is_cleared_away",
    "orphans_are_left_alone",
    "lost_tunnels_are_not_rebuilt",
    *PLANTED_FOR_DECIDERS,
)
"""The planted defects that are in deciders and comparison."""


def some(first: int, count: int) -> tuple[int, list[int]]:
    """Worlds one after the other: how many events they had, and the seeds that failed."""
    events, failed = 0, []
    for seed in range(first, first + count):
        world = World(seed)
        if world.run():
            failed.append(seed)
        events += len(world.said)
    return events, failed


def _many(first: int, seconds: float, processes: int) -> int:
    begun = time.perf_counter()
    worlds = events = 0
    failed: list[int] = []
    with ProcessPoolExecutor(processes) as pool:
        while not failed and time.perf_counter() - begun < seconds:
            begins = [first + worlds + AT_ONCE * n for n in range(processes)]
            for said, violated in pool.map(some, begins, [AT_ONCE] * processes):
                worlds, events, failed = worlds + AT_ONCE, events + said, failed + violated
    rate = worlds / (time.perf_counter() - begun)
    for seed in failed[:1]:
        _tell(seed)
    print(f"first_seed={first} scenarios={worlds} events={events} violated={len(failed)} per_second={rate:.0f}")
    return 1 if failed else 0


def _tell(seed: int) -> int:
    world = World(seed)
    violations = world.run()
    print("\n".join([*world.said, *(f"VIOLATION {each}" for each in violations)]))
    print(f"seed {seed}, {'a cloud' if world.cloud else 'an HPC system'}; again: make deciders SEED={seed}")
    return 1 if violations else 0


def _mutations() -> int:
    missed = 0
    for name in SEES:
        with planted(name):
            found = next(((seed, wrong[0]) for seed in range(MUTATION_SEEDS) if (wrong := World(seed).run())), None)
        missed += found is None
        print(f"{name}: {'seed {}, {}'.format(*found) if found else 'MISSED'}", flush=True)
    print(f"defects={len(SEES)} missed={missed}")
    return 1 if missed else 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="deciders", description="Runs the deciders in thousands of small worlds.")
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--first", type=int, help="the first of the new seeds; default: by chance")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--mutations", action="store_true")
    options = parser.parse_args()
    if options.mutations:
        return _mutations()
    if options.seed is not None:
        return _tell(options.seed)
    first = secrets.randbelow(2**31) if options.first is None else options.first
    return _many(first, options.seconds, options.processes)


if __name__ == "__main__":
    sys.exit(main())
