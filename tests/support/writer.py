"""Somebody who appends to the log whatever happens to the broker, and knows what was acknowledged."""

from __future__ import annotations

import asyncio
import time

import nats

from schemas.base import EventId
from schemas.session import SessionEvent
from schemas.subjects import Subjects
from services._runtime.errors import TransientError
from services._runtime.jetstream import JetStreamLog
from services._runtime.log import Log, Recorded
from tests.support.samples import Story, stamp

PATIENCE_SECONDS = 60.0


async def reconnecting(servers: list[str], subjects: Subjects) -> JetStreamLog:
    """The log by a client that comes back for ever; close its `client`."""
    logs: list[JetStreamLog] = []

    async def reconnected() -> None:
        for log in logs:
            log.reconnected()

    async def ignored(_error: Exception) -> None:
        """A server is away on purpose."""

    client = await nats.connect(
        servers, reconnect_time_wait=0.05, max_reconnect_attempts=-1, reconnected_cb=reconnected, error_cb=ignored
    )
    logs.append(JetStreamLog(client, subjects))
    return logs[0]


class Writer:
    """Writes the beginnings of sessions, one after the other, each event until it is taken."""

    def __init__(self, log: Log, subjects: Subjects) -> None:
        self.acknowledged: list[tuple[int, EventId]] = []
        self.pauses: list[float] = []
        self._log, self._subjects = log, subjects
        self._enough = asyncio.Event()

    async def write(self) -> None:
        """Ends after `enough`."""
        last = time.monotonic()
        while not self._enough.is_set():
            story, after = Story(), 0
            events: list[SessionEvent] = [story.requested(), story.admitted(), story.created()]
            for event in events:
                stamped = stamp()(event, after=after, cause=None)
                subject, scope = self._subjects.session_event(stamped), self._subjects.session(story.session)
                while True:
                    try:
                        after = await self._log.append("SESSIONS", subject, stamped, scope=scope, after=after)
                    except TransientError:
                        continue
                    break
                self.acknowledged.append((after, stamped.id))
                self.pauses.append(time.monotonic() - last)
                last = time.monotonic()

    async def more(self, count: int = 60) -> None:
        """Waits until so many more events were acknowledged."""
        wanted = len(self.acknowledged) + count
        async with asyncio.timeout(PATIENCE_SECONDS):
            while len(self.acknowledged) < wanted:
                await asyncio.sleep(0.01)

    async def enough(self, writing: asyncio.Task[None], seen: list[Recorded]) -> None:
        """Ends the writing; whoever follows the log must have seen exactly what was acknowledged, in its order."""
        self._enough.set()
        async with asyncio.timeout(PATIENCE_SECONDS):
            await writing
            while len(seen) < len(self.acknowledged):
                await asyncio.sleep(0.05)
        assert [(each.sequence, each.message.id) for each in seen] == self.acknowledged
        assert len({event for _, event in self.acknowledged}) == len(self.acknowledged)
