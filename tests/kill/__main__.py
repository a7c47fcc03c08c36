"""`python -m tests.kill --kills 200`: an installation under load, its parts killed and frozen, and the verdict."""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from services._runtime.tasks import end
from tests.kill.installation import WORDS, Installation, installation
from tests.kill.users import ACCOUNTS, Users
from tests.kill.verdict import Verdict, settled, watch_for_doubles

FROZEN = 0.15
"""The part of all blows that freeze instead of kill."""
COSTS = {"hub": 4.0, "nats": 3.0, "demo-hpc-site": 3.0}
"""What needs the longest to come back, what everything needs and what takes its jobs along is killed less often."""
MOST_DOWN = 2
"""More parts than this are not down at once, so that users get somewhere in between."""
LOOK_SECONDS = 0.05
PACE_SECONDS = 2.0
"""The mean time between two blows."""
SETTLE_SECONDS = 240.0
STOPPED_BY_USERS = frozenset({"stopped"})


@dataclass
class Outcome:
    """All that is told of one run."""

    line: str
    details: list[str]
    failed: bool


async def chaos(
    farlab: Installation, users: Users, kills: int, random_: random.Random, at_most_seconds: float
) -> Counter[str]:
    """Hurts what is well until enough were killed and as many visits made as there are servers, or time is up."""
    done: Counter[str] = Counter()
    thawing: list[asyncio.Task[None]] = []
    until = time.monotonic() + at_most_seconds

    async def thaw_later(pid: int, seconds: float) -> None:
        try:
            await asyncio.sleep(seconds)
        finally:
            farlab.thaw(pid)

    while (done["kills"] < kills or users.visits < len(users.servers)) and time.monotonic() < until:
        well = farlab.well()
        if len(well) < len(WORDS) - MOST_DOWN:
            await asyncio.sleep(LOOK_SECONDS)
            continue
        random_.shuffle(well)
        if well and random_.random() < FROZEN:
            if (pid := farlab.freeze(well[0])) is not None:
                done["freezes"] += 1
                thawing.append(asyncio.create_task(thaw_later(pid, random_.choice((0.5, 2.0, 8.0)))))
        elif well:
            name = min(well, key=lambda each: done[each] * COSTS.get(each, 1.0))
            if farlab.kill(name):
                done["kills"] += 1
                done[name] += 1
        await asyncio.sleep(random_.random() * 2 * PACE_SECONDS)
    await end(thawing)
    return done


async def run(farlab: Installation, kills: int, servers: int, seed: int, at_most_seconds: float) -> Outcome:
    """Chaos under load, calm, verdict."""
    begun = time.monotonic()
    users_of = list(ACCOUNTS)
    names = [(users_of[n % len(users_of)], f"s-{n}") for n in range(servers)]
    doubled: set[str] = set()
    timeout = aiohttp.ClientTimeout(total=30)
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar(), timeout=timeout) as http:
        users = Users(farlab, names, http)
        chaos_over = asyncio.Event()
        watching = [asyncio.create_task(users.look()), asyncio.create_task(watch_for_doubles(farlab, doubled))]
        living = [asyncio.create_task(users.live(server, chaos_over)) for server in names]
        try:
            done = await chaos(farlab, users, kills, random.Random(seed), at_most_seconds)
            chaos_over.set()
            calm = time.monotonic()
            async with asyncio.timeout(SETTLE_SECONDS):
                await asyncio.gather(*living)
            everybody_out = time.monotonic() - calm
            verdict = await settled(farlab, STOPPED_BY_USERS, SETTLE_SECONDS)
        except TimeoutError:
            done, everybody_out = Counter({"kills": kills}), SETTLE_SECONDS
            verdict = await settled(farlab, STOPPED_BY_USERS, 10.0)
        finally:
            await end([*watching, *living])
    farlab.listen()
    verdict.doubled += sorted(doubled)
    verdict.lost += users.crossed
    return _told(farlab, users, done, verdict, everybody_out, time.monotonic() - begun)


def _told(
    farlab: Installation, users: Users, done: Counter[str], verdict: Verdict, everybody_out: float, seconds: float
) -> Outcome:
    back = sorted(took for _, took in farlab.recovered) or [0.0]
    line = (
        f"kills={done['kills']} freezes={done['freezes']} {verdict.summary()} sessions={verdict.sessions} "
        f"visits={users.visits} crossed={len(users.crossed)} "
        f"back_p50_seconds={back[len(back) // 2]:.1f} back_p95_seconds={back[int(len(back) * 0.95)]:.1f} "
        f"back_p99_seconds={back[int(len(back) * 0.99)]:.1f} "
        f"settled_seconds={everybody_out + verdict.settled_seconds:.0f} seconds={seconds:.0f}"
    )
    details = [
        f"killed: {', '.join(f'{name} {done[name]}' for name in WORDS if done[name])}",
        f"outcomes: {dict(verdict.outcomes)}; starts {users.starts}, stops {users.stops}, refused {users.refused}",
        *verdict.wrong[:40],
    ]
    return Outcome(line, details, bool(verdict.wrong))


def main() -> int:
    parser = argparse.ArgumentParser(prog="test-kill", description="Kills the parts of a running installation.")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--servers", type=int, default=50, help="servers that are started and stopped all the time")
    parser.add_argument("--seconds", type=float, default=900.0, help="the longest the killing may take")
    parser.add_argument("--seed", type=int, default=None, help="which parts are hurt in which order")
    parser.add_argument("--keep", type=Path, default=None, help="a folder to keep everything in")
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else random.randrange(2**31)
    with tempfile.TemporaryDirectory(prefix="farlab-kill-") as temporary:
        folder = options.keep or Path(temporary)
        with installation(folder) as farlab:
            outcome = asyncio.run(run(farlab, options.kills, options.servers, seed, options.seconds))
            farlab.stop()
            left = farlab.processes_left()
    print("\n".join(outcome.details))
    print(f"seed={seed} {outcome.line} processes_left={left}")
    return 1 if outcome.failed or left else 0


if __name__ == "__main__":
    sys.exit(main())
