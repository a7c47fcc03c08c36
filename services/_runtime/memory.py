"""The event log in memory, with JetStream's semantics as far as services rely on them. For tests; keeps nothing.

Leaves out: files, limits, replicas, the deduplication window. Redelivery after the acknowledgement wait is by hand:
a test calls `redeliver`, because nothing here runs by a clock.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence

import msgspec

from schemas.base import Message
from schemas.wire import UndecodableError, cloudevents_headers, decode, encode
from services._runtime.log import (
    ConflictError,
    Deliver,
    KeyTakenError,
    Observe,
    Recorded,
    Stream,
    Subscription,
    Unreadable,
)
from services._runtime.telemetry import UNREADABLE


class Stored(msgspec.Struct, frozen=True):
    """A message as the broker holds it."""

    sequence: int
    subject: str
    body: bytes
    headers: dict[str, str]


def selects(subject_filter: str, subject: str) -> bool:
    """Whether a NATS subject filter (`*` one token, `>` the rest) selects a subject."""
    wanted, tokens = subject_filter.split("."), subject.split(".")
    for position, token in enumerate(wanted):
        if token == ">":  # noqa: S105 - a token of a subject
            return len(tokens) > position
        if position >= len(tokens) or token not in ("*", tokens[position]):
            return False
    return len(wanted) == len(tokens)


class MemoryLog:
    """One installation's log in one process."""

    def __init__(self) -> None:
        self.stored: dict[Stream, list[Stored]] = defaultdict(list)
        self.dead: list[Stored] = []
        self._followers: list[_Follower] = []
        self._consumers: dict[tuple[str, Stream], _Consumer] = {}

    async def append(self, stream: Stream, subject: str, message: Message, *, scope: str, after: int) -> int:
        """See `log.Log.append`."""
        if not selects(scope, subject):
            raise ValueError(f"scope {scope} does not select {subject}")
        body, headers = encode(message), cloudevents_headers(message)
        await asyncio.sleep(0)
        within = [stored for stored in self.stored[stream] if selects(scope, stored.subject)]
        if (within[-1].sequence if within else 0) != after:
            for stored in within:
                if stored.headers["Nats-Msg-Id"] == message.id:
                    return stored.sequence
            raise ConflictError(scope, _history(within))
        return self.publish(stream, subject, body, headers)

    def publish(self, stream: Stream, subject: str, body: bytes, headers: dict[str, str] | None = None) -> int:
        """Appends bytes as they are, as any client of the broker could."""
        stored = Stored(len(self.stored[stream]) + 1, subject, body, headers or {"Nats-Msg-Id": ""})
        self.stored[stream].append(stored)
        for follower in self._followers:
            follower.offer(stream, stored)
        for consumer in self._consumers.values():
            consumer.offer(stream, stored)
        return stored.sequence

    async def history(self, stream: Stream, scope: str) -> list[Recorded]:
        """See `log.Log.history`."""
        await asyncio.sleep(0)
        return _history([stored for stored in self.stored[stream] if selects(scope, stored.subject)])

    async def follow(self, stream: Stream, filters: Sequence[str], observe: Observe) -> Subscription:
        """See `log.Log.follow`."""
        follower = _Follower(self, stream, filters, observe)
        for stored in self.stored[stream]:
            follower.offer(stream, stored)
        self._followers.append(follower)
        return follower

    async def consume(
        self, service: str, stream: Stream, filters: Sequence[str], deliver: Deliver, *, ack_wait_seconds: float
    ) -> Subscription:
        """See `log.Log.consume`. Replicas of a service share its place; each message goes to one of them in turn."""
        del ack_wait_seconds  # redelivery is by hand
        key = (service, stream)
        if key not in self._consumers:
            self._consumers[key] = _Consumer(stream, filters)
            for stored in self.stored[stream]:
                self._consumers[key].offer(stream, stored)
        return self._consumers[key].join(deliver)

    async def dead_letter(self, subject: str, body: bytes, reasons: dict[str, str]) -> None:
        """See `log.Log.dead_letter`."""
        self.dead.append(Stored(len(self.dead) + 1, subject, body, reasons))

    async def past_changed(self) -> str:
        """See `log.Log.past_changed`: never here."""
        never: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        return await never

    def redeliver(self, service: str, stream: Stream = "SESSIONS") -> None:
        """Delivers again everything the service has not acknowledged, as the broker does after the wait."""
        self._consumers[service, stream].redeliver()

    async def settled(self) -> None:
        """Returns when no delivery is in hand and none waits for a taker."""
        while any(consumer.busy for consumer in self._consumers.values()):
            await asyncio.gather(*[task for consumer in self._consumers.values() for task in consumer.tasks])
            await asyncio.sleep(0)


def _history(stored: Sequence[Stored]) -> list[Recorded]:
    return [_recorded(each) or Recorded(each.sequence, Unreadable()) for each in stored]


def _recorded(stored: Stored) -> Recorded | None:
    try:
        return Recorded(stored.sequence, decode(stored.body))
    except UndecodableError as error:
        UNREADABLE.labels(type(error).__name__).inc()
        return None


class _Follower:
    def __init__(self, log: MemoryLog, stream: Stream, filters: Sequence[str], observe: Observe) -> None:
        self._log = log
        self._stream = stream
        self._filters = filters
        self._observe = observe

    def offer(self, stream: Stream, stored: Stored) -> None:
        if stream == self._stream and any(selects(each, stored.subject) for each in self._filters):
            recorded = _recorded(stored)
            if recorded is not None:
                self._observe(recorded)

    async def close(self) -> None:
        self._log._followers.remove(self)


class _Consumer:
    """A durable place in the log, shared by the replicas that joined."""

    def __init__(self, stream: Stream, filters: Sequence[str]) -> None:
        self.tasks: set[asyncio.Task[None]] = set()
        self._stream = stream
        self._filters = filters
        self._replicas: list[Deliver] = []
        self._unanswered: dict[int, tuple[Stored, int]] = {}
        self._untaken: list[Stored] = []
        self._turn = 0

    @property
    def busy(self) -> bool:
        return bool(self.tasks)

    def join(self, deliver: Deliver) -> Subscription:
        self._replicas.append(deliver)
        untaken, self._untaken = self._untaken, []
        for stored in untaken:
            self._give(stored, 1)
        return _Replica(self, deliver)

    def leave(self, deliver: Deliver) -> None:
        self._replicas.remove(deliver)

    def offer(self, stream: Stream, stored: Stored) -> None:
        if stream == self._stream and any(selects(each, stored.subject) for each in self._filters):
            self._give(stored, 1)

    def redeliver(self) -> None:
        for stored, attempt in list(self._unanswered.values()):
            self._give(stored, attempt + 1)

    def acknowledge(self, sequence: int) -> None:
        self._unanswered.pop(sequence, None)

    def _give(self, stored: Stored, attempt: int) -> None:
        if not self._replicas:
            self._untaken.append(stored)
            return
        self._unanswered[stored.sequence] = (stored, attempt)
        self._turn += 1
        deliver = self._replicas[self._turn % len(self._replicas)]
        task = asyncio.ensure_future(deliver(_MemoryDelivery(self, stored, attempt)))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)


class _Replica:
    def __init__(self, consumer: _Consumer, deliver: Deliver) -> None:
        self._consumer = consumer
        self._deliver = deliver

    async def close(self) -> None:
        self._consumer.leave(self._deliver)
        await asyncio.gather(*self._consumer.tasks)


class _MemoryDelivery:
    def __init__(self, consumer: _Consumer, stored: Stored, attempt: int) -> None:
        self._consumer = consumer
        self.subject = stored.subject
        self.body = stored.body
        self.sequence = stored.sequence
        self.attempt = attempt

    async def acknowledge(self) -> None:
        self._consumer.acknowledge(self.sequence)

    async def retry(self, delay_seconds: float) -> None:
        """Left unanswered: a test calls `MemoryLog.redeliver` when the delay shall be over."""

    async def working(self) -> None:
        """Nothing runs by a clock here."""


class MemoryBucket:
    """A key-value bucket in one process. Leaves out the time to live: a test calls `expire`."""

    def __init__(self) -> None:
        self._values: dict[str, tuple[bytes, int]] = {}
        self._revision = 0

    async def get(self, key: str) -> tuple[bytes, int] | None:
        """See `log.Bucket.get`."""
        await asyncio.sleep(0)
        return self._values.get(key)

    async def put(self, key: str, value: bytes) -> int:
        """See `log.Bucket.put`."""
        await asyncio.sleep(0)
        return self._write(key, value)

    async def create(self, key: str, value: bytes) -> int:
        """See `log.Bucket.create`."""
        await asyncio.sleep(0)
        if key in self._values:
            raise KeyTakenError(key)
        return self._write(key, value)

    async def update(self, key: str, value: bytes, revision: int) -> int:
        """See `log.Bucket.update`."""
        await asyncio.sleep(0)
        if key not in self._values or self._values[key][1] != revision:
            raise KeyTakenError(key)
        return self._write(key, value)

    def _write(self, key: str, value: bytes) -> int:
        """Without giving way, so that nobody comes between a check and its write."""
        self._revision += 1
        self._values[key] = (value, self._revision)
        return self._revision

    async def delete(self, key: str) -> None:
        """See `log.Bucket.delete`."""
        await asyncio.sleep(0)
        self._values.pop(key, None)

    async def keys(self) -> list[str]:
        """See `log.Bucket.keys`."""
        await asyncio.sleep(0)
        return list(self._values)

    def expire(self, key: str) -> None:
        """What the time to live does."""
        self._values.pop(key, None)
