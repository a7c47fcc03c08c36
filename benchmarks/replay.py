"""How long a whole log takes to be replayed, against a bare read of the same stream in the same run.

Replayed is what `farlab replay --all` does with sessions: every event is decoded whole, upcast where it is old, and
folded into the state of its session. The floor reads the same messages with nats-py, push consumer and callback, and
only counts them. Both read the same stream of the same server in turn, and medians over rounds are taken.
Run: `python -m benchmarks.replay --json`, with `--events 1000000` for the figure in the documents.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import msgspec
import nats
import uvloop
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
from ulid import ULID

from benchmarks.instant_services import SYSTEM
from benchmarks.start_chain import HUB, STAMP, SUBJECTS, request, server
from schemas.lifecycle import Ended
from schemas.session import (
    JobCreated,
    JobStatusChanged,
    JobSubmitted,
    Running,
    ServerListening,
    ServerReady,
    SessionEnded,
    SessionEvent,
    StartAdmitted,
    StopRequested,
    TunnelReady,
)
from schemas.wire import cloudevents_headers, encode
from services._runtime import topology
from services._runtime.jetstream import JetStreamLog
from services._runtime.nats_client import QuickClient
from services._runtime.service import utc_now
from services._runtime.settings import Retention
from services.operator_cli.whole_log import Sessions

PIPELINED = 2000
"""Messages on their way before the writer waits for the server to have taken them."""


def history() -> list[SessionEvent]:
    """The ten events of a session as most sessions have them."""
    asked = request()
    session: dict[str, Any] = {"hub": HUB, "system": SYSTEM, "session": asked.session}
    return [
        asked,
        StartAdmitted(**session, site_identity="CN=Ada Lovelace,O=Farlab Demo"),
        JobCreated(**session, job="cf2c211fdac4184b12ee0e2c298fc9c2"),
        JobSubmitted(**session),
        JobStatusChanged(**session, job_status=Running(), words="RUNNING"),
        ServerListening(**session, host="127.30.0.11", port=20001),
        TunnelReady(**session, host="127.0.0.1", port=40001, generation=1, replica="tunneler-1"),
        ServerReady(**session),
        StopRequested(**session, by="ada", reason="enough"),
        SessionEnded(**session, outcome="stopped", reason="Stopped by ada: enough"),
    ]


def bodies(sessions: int) -> Iterator[tuple[str, bytes, dict[str, str]]]:
    """Subject, body and headers of every event of so many sessions, as services append them.

    The events of one session are encoded, and get the ids of every other: encoding is not what is measured.
    """
    told = history()
    first, at = told[0].session, utc_now()
    prepared = []
    for number, event in enumerate(told):
        stamped = msgspec.structs.replace(STAMP(event, after=number, cause=None), at=at + timedelta(seconds=number))
        prepared.append((SUBJECTS.session_event(stamped), encode(stamped), cloudevents_headers(stamped), stamped.id))
    for _ in range(sessions):
        session = str(ULID()).lower()
        for number, (subject, body, headers, old) in enumerate(prepared):
            own = f"{session}{number:06d}"
            yield (
                subject.replace(first, session),
                body.replace(first.encode(), session.encode()).replace(old.encode(), own.encode()),
                {name: value.replace(first, session).replace(old, own) for name, value in headers.items()},
            )


async def write(client: Any, events: int) -> None:
    """Fills the stream. Acknowledgements are counted and not waited for one by one."""
    taken = 0

    async def count(_: Any) -> None:
        nonlocal taken
        taken += 1

    inbox = client.new_inbox()
    subscription = await client.subscribe(inbox, cb=count, pending_msgs_limit=-1)
    sent = 0
    for subject, body, headers in bodies(events // 10):
        await client.publish(subject, body, reply=inbox, headers=headers)
        sent += 1
        if sent % PIPELINED == 0:
            while taken < sent - PIPELINED:
                await asyncio.sleep(0)
    async with asyncio.timeout(120):
        while taken < sent:
            await asyncio.sleep(0.01)
    await subscription.unsubscribe()


async def bare(client: Any, events: int) -> float:
    """The seconds that reading the stream takes which does nothing with what it reads."""
    js, inbox, read, over = client.jetstream(), client.new_inbox(), 0, asyncio.Event()

    async def take(message: Any) -> None:
        nonlocal read
        if message.headers and message.headers.get("Status") == "100":
            if message.reply:
                await message.respond(b"")
            return
        read += 1
        if read == events:
            over.set()

    subscription = await client.subscribe(inbox, cb=take, pending_msgs_limit=-1, pending_bytes_limit=-1)
    begun = time.perf_counter()
    await js.add_consumer(
        "SESSIONS",
        ConsumerConfig(
            deliver_subject=inbox,
            deliver_policy=DeliverPolicy.ALL,
            ack_policy=AckPolicy.NONE,
            flow_control=True,
            idle_heartbeat=1.0,
            mem_storage=True,
            inactive_threshold=10.0,
        ),
    )
    await over.wait()
    seconds = time.perf_counter() - begun
    await subscription.unsubscribe()
    return seconds


async def replayed(log: JetStreamLog, events: int) -> float:
    """The seconds until the state of every session is there again."""
    sessions = Sessions()
    begun = time.perf_counter()
    await sessions.read(log, SUBJECTS)
    seconds = time.perf_counter() - begun
    ended = sum(isinstance(state, Ended) for state in sessions.states.values())
    if (sessions.events, ended, sessions.ignored) != (events, events // 10, []):
        raise RuntimeError(f"{sessions.events} events read, {ended} sessions ended, {len(sessions.ignored)} ignored")
    return seconds


async def measure(events: int, rounds: int) -> dict[str, float]:
    """All figures of one run."""
    async with server(sync="2m") as url:
        client, quick = await nats.connect(url, pending_size=64 * 1024 * 1024), QuickClient()
        await quick.connect(url)
        await topology.apply(client.jetstream(), SUBJECTS, Retention())
        begun = time.perf_counter()
        await write(client, events)
        written = time.perf_counter() - begun
        log = JetStreamLog(quick, SUBJECTS)
        floors, quick_floors, folds = [], [], []
        for _ in range(rounds):
            floors.append(await bare(client, events))
            quick_floors.append(await bare(quick, events))
            folds.append(await replayed(log, events))
        await client.close()
        await quick.close()
    floor, quick_floor, fold = (statistics.median(each) for each in (floors, quick_floors, folds))
    return {
        "events": events,
        "written_seconds": round(written, 2),
        "bare_read_seconds": round(floor, 2),
        "bare_read_without_headers_seconds": round(quick_floor, 2),
        "replay_seconds": round(fold, 2),
        "replay_events_per_second": round(events / fold),
        "ratio_replay_to_bare_read": round(fold / floor, 2),
        "ratio_replay_to_bare_read_without_headers": round(fold / quick_floor, 2),
    }


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--events", type=int, default=100_000, help="how many events the log has, ten a session")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        figures = runner.run(measure(options.events - options.events % 10, options.rounds))
    if options.json:
        print(json.dumps(figures))
        return
    for name, value in figures.items():
        print(f"{name:<28} {value}")


if __name__ == "__main__":
    main()
