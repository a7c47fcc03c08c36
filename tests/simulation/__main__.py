"""`python -m tests.simulation`: new seeds for as long as it is told, one seed again, or the planted defects.

Ends with a summary line; a failing seed is shrunk to the fewest faults that show it, with its timeline.
"""

from __future__ import annotations

import argparse
import os
import secrets
import sys
import time
from collections import Counter
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, field

from tests.simulation.mutations import PLANTED, SHOWN_BY, planted
from tests.simulation.run import Result, run, shrunk, watch_logs

AT_ONCE = 20
MUTATION_SEEDS = 400
CATEGORIES = {
    "unreachable": "lost",
    "wanted-job-removed": "lost",
    "crossed-wire": "lost",
    "ended-with-live-job": "orphaned",
    "orphaned": "orphaned",
    "stuck": "stuck",
    "leaked": "leaked",
    "released-too-early": "leaked",
}
"""How kinds of violations are counted in the summary; what begins with `doubled` is doubled, all else is other."""


@dataclass
class Tally:
    """What many scenarios came to."""

    scenarios: int = 0
    sessions: int = 0
    appends: int = 0
    steps: int = 0
    virtual_seconds: float = 0.0
    settled: list[float] = field(default_factory=list)
    failed: list[tuple[int, str, str]] = field(default_factory=list)

    def add(self, result: Result) -> None:
        self.scenarios += 1
        self.sessions += result.sessions
        self.appends += result.appends
        self.steps += result.steps
        self.virtual_seconds += result.virtual_seconds
        self.settled.append(result.settled_after)
        if result.violations:
            self.failed.append((result.scenario.seed, *result.violations[0]))

    def join(self, other: Tally) -> None:
        for name in ("scenarios", "sessions", "appends", "steps", "virtual_seconds"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.settled += other.settled
        self.failed += other.failed

    def summary(self, seconds: float) -> str:
        counted: Counter[str] = Counter(_category(kind) for _, kind, _ in self.failed)
        settled = sorted(self.settled) or [0.0]
        words = [f"scenarios={self.scenarios}", f"sessions={self.sessions}"]
        words += [f"{name}={counted[name]}" for name in ("lost", "orphaned", "doubled", "stuck", "leaked", "other")]
        words += [
            f"per_second={self.scenarios / seconds:.1f}",
            f"steps_per_second={self.steps / seconds:.0f}",
            f"virtual_seconds={self.virtual_seconds:.0f}",
            f"settled_p50_seconds={settled[len(settled) // 2]:.0f}",
            f"settled_p99_seconds={settled[int(len(settled) * 0.99)]:.0f}",
        ]
        return " ".join(words)


def _category(kind: str) -> str:
    return "doubled" if kind.startswith("doubled") else CATEGORIES.get(kind, "other")


def _some(first: int, count: int) -> Tally:
    watch_logs()
    tally = Tally()
    for seed in range(first, first + count):
        tally.add(run(seed))
    return tally


def _many(first: int, scenarios: int, seconds: float, processes: int) -> int:
    begun = time.perf_counter()
    tally, following = Tally(), first
    with ProcessPoolExecutor(processes) as pool:
        running: set[Future[Tally]] = set()
        while True:
            spent = time.perf_counter() - begun
            wanted = following - first < scenarios if scenarios else spent < seconds
            while wanted and not tally.failed and len(running) < processes:
                running.add(pool.submit(_some, following, AT_ONCE))
                following += AT_ONCE
            if not running:
                break
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for each in done:
                tally.join(each.result())
    for seed, _, _ in tally.failed[:1]:
        _tell(seed, None)
    print(f"first_seed={first} {tally.summary(time.perf_counter() - begun)}")
    return 1 if tally.failed else 0


def _tell(seed: int, faults: list[int] | None) -> int:
    watch_logs()
    result = run(seed, faults)
    result = shrunk(result) if result.violations and faults is None else run(seed, faults, trace=True)
    chosen = result.scenario
    print(f"seed {seed}: replicas {chosen.replicas}, skews {chosen.skews}, quota {chosen.quota_limit}")
    print(f"  loss {chosen.loss}, slowness {chosen.slowness}, doubling {chosen.doubling}")
    for number in chosen.chosen:
        print(f"  fault {number}: {chosen.faults[number]}")
    print("\n".join(result.trace))
    if result.violations:
        faults_given = ",".join(map(str, chosen.chosen)) or "none"
        print(f"again: make simulate SEED={seed} FAULTS={faults_given}")
    print(f"violations={len(result.violations)} digest={result.digest}")
    return 1 if result.violations else 0


def _mutations(names: list[str]) -> int:
    watch_logs()
    missed = 0
    for name in names or PLANTED:
        with planted(name):
            for seed in (SHOWN_BY.get(name, 0), *range(MUTATION_SEEDS)):
                result = run(seed)
                if result.violations:
                    kind, what = result.violations[0]
                    print(f"caught {name} seed={seed} {kind}: {what}", flush=True)
                    break
            else:
                print(f"MISSED {name} in {MUTATION_SEEDS} scenarios", flush=True)
                missed += 1
    print(f"planted={len(names or PLANTED)} missed={missed}")
    return 1 if missed else 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="simulate", description="Simulates whole installations, seed by seed.")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long to try new seeds")
    parser.add_argument("--scenarios", type=int, default=0, help="how many instead")
    parser.add_argument("--first-seed", type=int, default=None, help="where to begin; by chance if not given")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--seed", type=int, default=None, help="one seed again, with its timeline")
    parser.add_argument("--faults", default="", help="with --seed: only these of its faults, such as 0,3 or none")
    parser.add_argument("--mutations", nargs="*", default=None, help="the planted defects, all or by name")
    options = parser.parse_args()
    if os.environ.get("PYTHONHASHSEED") != "0":  # the order of sets is part of what a seed replays
        environment = {**os.environ, "PYTHONHASHSEED": "0"}
        os.execve(sys.executable, [sys.executable, "-m", "tests.simulation", *sys.argv[1:]], environment)
    if options.mutations is not None:
        return _mutations(options.mutations)
    if options.seed is not None:
        faults = options.faults.replace("none", "")
        return _tell(options.seed, [int(each) for each in faults.split(",") if each] if options.faults else None)
    first = options.first_seed if options.first_seed is not None else secrets.randbelow(2**40)
    return _many(first, options.scenarios, options.seconds, options.processes)


if __name__ == "__main__":
    sys.exit(main())
