"""`python -m tests.simulation.orders`: new seeds for as long as it is told, one seed again, or the planted defects."""

from __future__ import annotations

import argparse
import os
import secrets
import sys
import time
from concurrent.futures import ProcessPoolExecutor

from tests.simulation.mutations import PLANTED, PLANTED_FOR_CROWD, PLANTED_FOR_ORDERS, planted
from tests.simulation.orders.crowd import Crowd
from tests.simulation.orders.run import Result, run, some

AT_ONCE = 100
MUTATION_SEEDS = 12_000
OUT_OF_REACH = {
    "secrets_are_forgotten_from_the_wrong_end",
    "a_hub_sweeps_once_or_never",
    "a_hub_starts_again_before_the_old_session_is_over",
    "a_moved_tunnel_moves_no_route",
    "servers_are_ready_before_they_answer",
}
"""Planted in the hub bridge, which only the whole simulation runs."""
CROWD_SEEDS = 40
CROWD_SEES = (
    "accounts_never_release",
    "accounts_admit_without_reserving",
    "quotas_are_one_too_generous",
    "a_share_is_reserved_again_at_every_try",
    *PLANTED_FOR_CROWD,
)
SHOWN_BY = {
    "a_passed_deadline_ends_a_job_that_may_run": 787,
    "a_stop_believes_one_denial": 10684,
    "dead_tunnelers_are_thought_alive": 1322,
    "messages_are_acknowledged_before_they_are_handled": 13,
    "orphans_are_left_alone": 90,
    "silence_is_taken_for_the_end": 61,
    "stops_are_believed_without_proof": 88,
    "tunnels_are_not_proved": 90,
    "whoever_finds_two_jobs_removes_one": 78,
}
"""Seeds that once showed a defect, tried first; where they no longer do, others are searched."""


def _many(first: int, seconds: float, processes: int) -> int:
    begun = time.perf_counter()
    orders = appends = 0
    failed: list[Result] = []
    with ProcessPoolExecutor(processes) as pool:
        while not failed and time.perf_counter() - begun < seconds:
            begins = [first + orders + AT_ONCE * n for n in range(processes)]
            for events, violated in pool.map(some, begins, [AT_ONCE] * processes):
                orders, appends, failed = orders + AT_ONCE, appends + events, failed + violated
    spent = time.perf_counter() - begun
    for result in failed[:1]:
        _tell(result.seed)
    print(
        f"first_seed={first} orders={orders} appends={appends} violated={len(failed)} per_second={orders / spent:.0f}"
    )
    return 1 if failed else 0


def _tell(seed: int) -> int:
    result = run(seed, trace=True)
    print("\n".join([*result.trace, *(f"VIOLATION {kind}: {what}" for kind, what in result.violations)]))
    print(f"seed {seed}: {result.steps} steps, {result.appends} events; again: make orders SEED={seed}")
    return 1 if result.violations else 0


def _mutations() -> int:
    names = sorted((PLANTED | PLANTED_FOR_ORDERS).keys() - OUT_OF_REACH)
    missed = 0
    for name in names:
        seeds = [*([SHOWN_BY[name]] if name in SHOWN_BY else []), *range(MUTATION_SEEDS)]
        with planted(name):
            caught = next((result for seed in seeds if (result := run(seed)).violations), None)
        missed += caught is None
        print(f"{name}: {f'seed {caught.seed}, {caught.violations[0][0]}' if caught else 'MISSED'}", flush=True)
    print(f"defects={len(names)} missed={missed}")
    return 1 if missed else 0


def _crowds(crowds: int) -> int:
    """Crowds, then each defect that it takes one to see."""
    failed = waited = admitted = missed = 0
    for seed in range(crowds):
        result = run(seed, of=Crowd)
        failed += bool(result.violations)
        waited += result.outcomes["waited"]
        admitted += result.outcomes["admitted-after-waiting"]
        print(f"crowd {seed}: {result.outcomes} {result.violations[:3]}", flush=True)
    for name in CROWD_SEES:
        with planted(name):
            caught = next((result for seed in range(CROWD_SEEDS) if (result := run(seed, of=Crowd)).violations), None)
        missed += caught is None
        print(f"{name}: {f'seed {caught.seed}, {caught.violations[0][0]}' if caught else 'MISSED'}", flush=True)
    print(f"crowds={crowds} violated={failed} waited={waited} admitted_after_waiting={admitted} missed={missed}")
    return 1 if failed or missed else 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="orders", description="Takes the services' awaits in every order.")
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--first", type=int, help="the first of the new seeds; default: by chance")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--mutations", action="store_true")
    parser.add_argument("--crowds", type=int, help="hundreds of starts at the accounts, so many times")
    options = parser.parse_args()
    if options.crowds is not None:
        return _crowds(options.crowds)
    if options.mutations:
        return _mutations()
    if options.seed is not None:
        return _tell(options.seed)
    first = secrets.randbelow(2**31) if options.first is None else options.first
    return _many(first, options.seconds, options.processes)


if __name__ == "__main__":
    sys.exit(main())
