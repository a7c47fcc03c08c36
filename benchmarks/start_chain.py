"""How much the event path of a start costs over the same appends done bare, alone and at 500 at once.

The path is request, admission, job-created, job-submitted, server-listening and tunnel-ready through three services in
processes of their own with instant backends; the floor is the same bodies appended one after the other with nats-py,
in the same run on the same server (`sync_interval: always`). Run: `python -m benchmarks.start_chain --json`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import nats
import uvloop
from ulid import ULID

from benchmarks.instant_services import SYSTEM
from schemas.base import HubName, SessionId, UserName
from schemas.session import HpcPlace, Resources, SessionEvent, StartRequested, TunnelReady
from schemas.subjects import Subjects
from schemas.wire import cloudevents_headers, encode
from services._runtime import topology
from services._runtime.identity import Stamp
from services._runtime.jetstream import JetStreamLog
from services._runtime.log import Recorded
from services._runtime.service import utc_now
from services._runtime.settings import Retention
from services._runtime.telemetry import configure_logs

SERVICES = ("accounts", "hpc-launcher", "tunneler")
HUB = HubName("bench")
CONFIGURATION = 'listen: "127.0.0.1:-1"\nports_file_dir: "{0}"\njetstream {{ store_dir: "{0}", sync_interval: {1} }}\n'
SUBJECTS = Subjects()
STAMP = Stamp("bench/hub", b"0123456789abcdef", utc_now)


@asynccontextmanager
async def server(sync: str = "always") -> AsyncIterator[str]:
    """The address of a fresh nats-server that writes to disk `always`, or so often."""
    with tempfile.TemporaryDirectory(prefix="farlab-bench-") as folder:
        file = Path(folder, "nats.conf")
        file.write_text(CONFIGURATION.format(folder, sync))
        command = [str(Path(sys.executable).parent / "nats-server"), "-c", str(file)]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            try:
                while not (ports := list(Path(folder).glob("*.ports"))):
                    await asyncio.sleep(0.01)
                yield json.loads(ports[0].read_text())["nats"][0]
            finally:
                process.terminate()
                process.wait(10)


def request() -> StartRequested:
    """A start of a fresh session."""
    return StartRequested(
        hub=HUB,
        system=SYSTEM,
        session=SessionId(str(ULID()).lower()),
        user=UserName("ada"),
        place=HpcPlace(account="ada1", project="ztrain", partition="batch"),
        resources=Resources(runtime_seconds=3600),
        base_url="/user/ada/",
        deadline=utc_now() + timedelta(hours=1),
    )


class ServicePath:
    """The services' path, as the hub sees it: from the request's append to tunnel-ready."""

    def __init__(self, log: JetStreamLog) -> None:
        self._log = log
        self._waiting: dict[SessionId, asyncio.Future[None]] = {}
        self.histories: dict[SessionId, list[SessionEvent]] = {}

    def observe(self, recorded: Recorded) -> None:
        """Takes an event from the follower."""
        event = recorded.message
        if isinstance(event, SessionEvent):
            self.histories.setdefault(event.session, []).append(event)
            if isinstance(event, TunnelReady) and (waiter := self._waiting.pop(event.session, None)) is not None:
                waiter.set_result(None)

    async def one(self) -> float:
        """The seconds one start takes."""
        event = STAMP(request(), after=0, cause=None)
        waiter = self._waiting[event.session] = asyncio.get_running_loop().create_future()
        begun = time.perf_counter()
        subject, scope = SUBJECTS.session_event(event), SUBJECTS.session(event.session)
        await self._log.append("SESSIONS", subject, event, scope=scope, after=0)
        await waiter
        return time.perf_counter() - begun


async def bare(js: Any, history: list[SessionEvent]) -> float:
    """The seconds the same appends take, one after the other, under a session of their own."""
    session = str(ULID()).lower()
    scope, last = SUBJECTS.session(SessionId(session)), 0
    begun = time.perf_counter()
    for event in history:
        own = msgspec.structs.replace(event, hub="floor", system="floor", session=session)  # nobody serves that system
        subject = SUBJECTS.session_event(own)
        headers = cloudevents_headers(own) | {
            "Nats-Msg-Id": f"{session}{last}",
            "Nats-Expected-Last-Subject-Sequence": str(last),
            "Nats-Expected-Last-Subject-Sequence-Subject": scope,
        }
        last = (await js.publish(subject, encode(own), headers=headers)).seq
    return time.perf_counter() - begun


async def measure(alone: int, at_once: int, rounds: int) -> dict[str, float]:
    """All figures of one run; each round measures path and floor in turn, and medians over rounds are taken."""
    async with server() as url:
        client = await nats.connect(url)
        await topology.apply(client.jetstream(), SUBJECTS, Retention())
        processes = [
            subprocess.Popen(
                [sys.executable, "-m", "benchmarks.instant_services", name, url], stdout=subprocess.PIPE, text=True
            )
            for name in SERVICES
        ]
        try:
            for process in processes:
                assert process.stdout is not None
                await asyncio.to_thread(process.stdout.readline)
            log = JetStreamLog(client, SUBJECTS)
            path = ServicePath(log)
            following = await log.follow("SESSIONS", [SUBJECTS.sessions(hub=HUB)], path.observe)
            await asyncio.gather(*[path.one() for _ in range(50)])
            sample = next(iter(path.histories.values()))
            figures = await _rounds(path, log.js, sample, alone, at_once, rounds)
            await following.close()
            return figures
        finally:
            for process in processes:
                process.terminate()
                process.wait(10)
            await client.close()


async def _rounds(
    path: ServicePath, js: Any, sample: list[SessionEvent], alone: int, at_once: int, rounds: int
) -> dict[str, float]:
    ours, floor, our_rates, floor_rates = [], [], [], []
    for _ in range(rounds):
        ours += [await path.one() for _ in range(alone // rounds)]
        floor += [await bare(js, sample) for _ in range(alone // rounds)]
        begun = time.perf_counter()
        await asyncio.gather(*[path.one() for _ in range(at_once)])
        our_rates.append(at_once / (time.perf_counter() - begun))
        begun = time.perf_counter()
        await asyncio.gather(*[bare(js, sample) for _ in range(at_once)])
        floor_rates.append(at_once / (time.perf_counter() - begun))
    p50, floor_p50 = statistics.median(ours), statistics.median(floor)
    rate, floor_rate = statistics.median(our_rates), statistics.median(floor_rates)
    return {
        "events_per_start": len(sample),
        "p50_alone_ms": round(p50 * 1000, 3),
        "floor_p50_alone_ms": round(floor_p50 * 1000, 3),
        "per_second_500": round(rate, 1),
        "floor_per_second_500": round(floor_rate, 1),
        "ratio_p50_alone": round(p50 / floor_p50, 3),
        "ratio_per_second_500": round(floor_rate / rate, 3),
    }


def main() -> None:
    """Prints the figures, for people or as a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--alone", type=int, default=300, help="starts measured one by one")
    parser.add_argument("--at-once", type=int, default=500, help="starts at the same time")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    configure_logs("benchmark", level="warning")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        figures = runner.run(measure(options.alone, options.at_once, options.rounds))
    if options.json:
        print(json.dumps(figures))
    else:
        for name, value in figures.items():
            print(f"{name:>24} {value}")


if __name__ == "__main__":
    main()
