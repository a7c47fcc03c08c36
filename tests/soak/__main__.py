"""`python -m tests.soak --sessions 5000`: lives of sessions through the real services, and what grows meanwhile."""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from schemas.lifecycle import Ended
from services._runtime.tasks import end
from tests.soak.stage import SERVICES, Stage, many, stage

WARM = 0.4
"""The part of a run in which buffers and caches may fill."""
MOST_BYTES_PER_SESSION = 4096.0
"""What a service may grow by for every session that is over. Allocators never give all back at once."""
MOST_LAG = 1500


@dataclass
class Measured:
    """What was seen over a run."""

    ended: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    samples: list[tuple[int, dict[str, int], dict[str, int]]] = field(default_factory=list)
    most_lag: int = 0
    left: int = 0
    seconds: float = 0.0

    def slope(self, service: str, which: int) -> float:
        """By how much memory (1) or open files (2) of a service grow per session, once it is warm."""
        warm = [sample for sample in self.samples if sample[0] >= self.ended * WARM]
        points = [(float(sample[0]), float(sample[which][service])) for sample in warm]  # type: ignore[index]
        if len(points) < 3:
            return 0.0
        middle = sum(x for x, _ in points) / len(points), sum(y for _, y in points) / len(points)
        across = sum((x - middle[0]) ** 2 for x, _ in points)
        return sum((x - middle[0]) * (y - middle[1]) for x, y in points) / across if across else 0.0

    def problems(self) -> list[str]:
        """What is beyond its bound."""
        found = []
        for service in SERVICES:
            if (bytes_ := self.slope(service, 1)) > MOST_BYTES_PER_SESSION:
                found.append(f"{service} grows by {bytes_:.0f} bytes a session")
            if (files := self.slope(service, 2)) > 0.01:
                found.append(f"{service} opens {files:.3f} files a session")
        if set(self.outcomes) - {"stopped"}:
            found.append(f"not every session was stopped: {dict(self.outcomes)}")
        if self.most_lag > MOST_LAG:
            found.append(f"a service was {self.most_lag} messages behind")
        if self.left:
            found.append(f"{self.left} secrets are left")
        return found

    def line(self) -> str:
        """The summary."""
        words = [f"sessions={self.ended}", f"per_second={self.ended / self.seconds:.1f}", f"most_lag={self.most_lag}"]
        words += [f"{service}_bytes_per_session={self.slope(service, 1):.0f}" for service in SERVICES]
        words += [f"{service}_mb={self.samples[-1][1][service] / 1e6:.0f}" for service in SERVICES]
        words += [f"{service}_files={self.samples[-1][2][service]}" for service in SERVICES]
        return " ".join([*words, f"leaked={self.left}", f"seconds={self.seconds:.0f}"])


async def soak(here: Stage, sessions: int, at_once: int) -> Measured:
    """Runs the sessions and measures all the while."""
    measured = Measured()
    begun = time.monotonic()
    every = max(sessions // 40, 1)

    def done(ended: Ended) -> None:
        measured.ended += 1
        measured.outcomes[ended.end.outcome] += 1
        if measured.ended % every == 0:
            memory = {service: here.memory_bytes(service) for service in SERVICES}
            measured.samples.append((measured.ended, memory, {service: here.files(service) for service in SERVICES}))

    async def watch_lag() -> None:
        while True:
            measured.most_lag = max(measured.most_lag, *(await here.lag()).values())
            await asyncio.sleep(0.5)

    watching = asyncio.create_task(watch_lag())
    try:
        await many(here, sessions, at_once, done)
        await here.idle(60)
    finally:
        await end([watching])
    measured.seconds = time.monotonic() - begun
    measured.left = len(await here.vault.names())
    return measured


async def run(folder: Path, sessions: int, at_once: int) -> Measured:
    async with stage(folder) as here:
        return await soak(here, sessions, at_once)


def main() -> int:
    parser = argparse.ArgumentParser(prog="soak", description="Thousands of sessions through the real services.")
    parser.add_argument("--sessions", type=int, default=5000)
    parser.add_argument("--at-once", type=int, default=100)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="farlab-soak-") as folder:
        measured = asyncio.run(run(Path(folder), options.sessions, options.at_once))
    print("\n".join(measured.problems()) or "nothing is beyond its bound")
    print(measured.line())
    return 1 if measured.problems() else 0


if __name__ == "__main__":
    sys.exit(main())
