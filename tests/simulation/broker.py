"""JetStream as services see it: compare-and-append, followers, durable consumers, buckets with a time to live.

Omits: size limits, streams over several nodes, the deduplication window (correctness must not rest on it). A follower
gets everything in order, late or after a cut; a consumer gets everything at least once, in any order.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import msgspec

from schemas.base import Message
from schemas.wire import decode, encode
from services._runtime.errors import TransientError
from services._runtime.log import ConflictError, Deliver, KeyTakenError, Observe, Recorded, Stream, Subscription
from services._runtime.memory import selects as _selects
from tests.simulation.loop import Life
from tests.simulation.process import LostAnswerError, Process

if TYPE_CHECKING:
    from tests.simulation.world import World

APPEND_SECONDS, APPEND_TRIES = 2.0, 4
ANSWER_SECONDS = 5.0

selects = lru_cache(maxsize=100_000)(_selects)


class Stored(msgspec.Struct):
    """A message as the broker holds it."""

    subject: str
    body: bytes
    recorded: Recorded


class Broker:
    """The one broker of a scenario, durable over its own restarts."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.streams: dict[Stream, list[Stored]] = defaultdict(list)
        self.dead: list[tuple[str, dict[str, str]]] = []
        self.buckets: dict[str, Bucket] = {
            "leases": Bucket(world, 6.0),
            "vault": Bucket(world, 0.0),
            "access": Bucket(world, 0.0),
            "activity": Bucket(world, 0.0),
        }
        self._scopes: dict[tuple[Stream, str], list[Stored]] = {}
        self._followers: list[Follower] = []
        self._consumers: dict[tuple[str, Stream], Consumer] = {}

    def within(self, stream: Stream, scope: str) -> list[Stored]:
        """What a scope holds."""
        key = (stream, scope)
        if key not in self._scopes:
            self._scopes[key] = [stored for stored in self.streams[stream] if selects(scope, stored.subject)]
        return self._scopes[key]

    def append(self, stream: Stream, subject: str, body: bytes, scope: str, after: int) -> int | None:
        """The new sequence, or None where the scope moved on."""
        within = self.within(stream, scope)
        if (within[-1].recorded.sequence if within else 0) != after:
            return None
        sequence = len(self.streams[stream]) + 1
        stored = Stored(subject, body, Recorded(sequence, decode(body)))
        self.streams[stream].append(stored)
        for (of, known), held in self._scopes.items():
            if of == stream and selects(known, subject):
                held.append(stored)
        self.world.appended(stream, stored.recorded)
        for follower in self._followers:
            follower.poke(stream)
        for consumer in self._consumers.values():
            consumer.offer(stream, stored)
        return sequence

    def join(self, follower: Follower) -> None:
        """A follower begins."""
        self._followers.append(follower)

    def died(self, life: Life) -> None:
        """A connection is gone with its process."""
        self._followers = [each for each in self._followers if each.life is not life]
        for consumer in self._consumers.values():
            consumer.members = [each for each in consumer.members if each[0].life is not life]

    def back(self) -> None:
        """The broker, or somebody's way to it, is back."""
        for follower in self._followers:
            follower.poke(follower.stream)
        for consumer in self._consumers.values():
            consumer.dispatch()

    def consumer(self, service: str, stream: Stream, filters: Sequence[str], ack_wait_seconds: float) -> Consumer:
        """The durable consumer of a service."""
        key = (service, stream)
        if key not in self._consumers:
            self._consumers[key] = Consumer(self.world, service, stream, filters, ack_wait_seconds)
            for stored in self.streams[stream]:
                self._consumers[key].offer(stream, stored)
        return self._consumers[key]


class Follower:
    """One ordered reader: what it has not seen comes in order, soon while its way is open."""

    def __init__(self, process: Process, broker: Broker, stream: Stream, filters: Sequence[str], observe: Observe):
        self.process, self.stream = process, stream
        self.life = process.life
        self.caught_up = asyncio.Event()
        self._broker = broker
        self._filters = tuple(filters)
        self._observe = observe
        self._position = 0
        self._on_its_way = False

    def poke(self, stream: Stream) -> None:
        """There may be something new."""
        if stream == self.stream and not self._on_its_way and not self._broker.world.cut_off(self.process, "broker"):
            self._on_its_way = True
            loop = self._broker.world.loop
            loop.call_at(loop.now + self._broker.world.latency("broker"), self._take, context=self._context)

    @property
    def _context(self) -> object:
        assert self.life is not None
        return self.life.context

    def _take(self) -> None:
        self._on_its_way = False
        if self._broker.world.cut_off(self.process, "broker"):
            return
        messages = self._broker.streams[self.stream]
        while self._position < len(messages):
            stored = messages[self._position]
            self._position += 1
            if any(selects(each, stored.subject) for each in self._filters):
                self._observe(stored.recorded)
        self.caught_up.set()

    async def close(self) -> None:
        if self in self._broker._followers:
            self._broker._followers.remove(self)


class Consumer:
    """A durable place in a stream, shared by a service's replicas."""

    def __init__(
        self, world: World, service: str, stream: Stream, filters: Sequence[str], ack_wait_seconds: float
    ) -> None:
        self.members: list[tuple[Process, Deliver]] = []
        self._world = world
        self._service = service
        self._stream = stream
        self._filters = tuple(filters)
        self._ack_wait_seconds = ack_wait_seconds
        self._waiting: list[tuple[Stored, int]] = []
        self._unanswered: dict[int, object] = {}

    def offer(self, stream: Stream, stored: Stored) -> None:
        """A message was appended."""
        if stream == self._stream and any(selects(each, stored.subject) for each in self._filters):
            self._give(stored, 1)

    def dispatch(self) -> None:
        """What waited for somebody to take it."""
        waiting, self._waiting = self._waiting, []
        for stored, attempt in waiting:
            self._give(stored, attempt)

    def _give(self, stored: Stored, attempt: int) -> None:
        world = self._world
        members = [each for each in self.members if not world.cut_off(each[0], "broker")]
        if not members:
            self._waiting.append((stored, attempt))
            return
        again = self._expect(stored, attempt, self._ack_wait_seconds)
        for _ in range(2 if world.doubled() else 1):
            process, deliver = members[int(world.random.random() * len(members))]
            assert process.life is not None
            delivery = Delivery(self, process, stored, attempt, again)
            when = world.loop.now + world.latency("broker")
            world.loop.call_at(when, self._arrive, process, deliver, delivery, context=process.life.context)

    def _arrive(self, process: Process, deliver: Deliver, delivery: Delivery) -> None:
        if not self._world.cut_off(process, "broker"):
            self._world.loop.create_task(deliver(delivery))

    def _expect(self, stored: Stored, attempt: int, seconds: float) -> object:
        """Delivers again after the time, unless answered."""
        token = object()
        self._unanswered[stored.recorded.sequence] = token

        def again() -> None:
            if self._unanswered.get(stored.recorded.sequence) is token:
                del self._unanswered[stored.recorded.sequence]
                if self._world.is_down("broker"):
                    self._waiting.append((stored, attempt + 1))
                else:
                    self._give(stored, attempt + 1)

        self._world.loop.after(seconds, again)
        return token

    def answered(self, sequence: int) -> None:
        """It is done, whichever delivery of it was answered."""
        self._unanswered.pop(sequence, None)

    def prolonged(self, stored: Stored, attempt: int, seconds: float) -> None:
        """It comes again only after that time from now."""
        if stored.recorded.sequence in self._unanswered:
            self._expect(stored, attempt, seconds)


class Delivery:
    """See `log.Delivery`."""

    def __init__(self, consumer: Consumer, process: Process, stored: Stored, attempt: int, token: object) -> None:
        self.subject = stored.subject
        self.body = stored.body
        self.sequence = stored.recorded.sequence
        self.attempt = attempt
        self._consumer = consumer
        self._process = process
        self._stored = stored

    async def acknowledge(self) -> None:
        self._process.tell("broker", lambda: self._consumer.answered(self.sequence))

    async def retry(self, delay_seconds: float) -> None:
        self._process.tell("broker", lambda: self._consumer.prolonged(self._stored, self.attempt, delay_seconds))

    async def working(self) -> None:
        wait = self._consumer._ack_wait_seconds
        self._process.tell("broker", lambda: self._consumer.prolonged(self._stored, self.attempt, wait))


class _Hands:
    def __init__(self, consumer: Consumer, member: tuple[Process, Deliver]) -> None:
        self._consumer, self._member = consumer, member

    async def close(self) -> None:
        if self._member in self._consumer.members:
            self._consumer.members.remove(self._member)


class SimLog:
    """The log as one process reaches it. See `log.Log`; repeats an append as the JetStream adapter does."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._broker = process.world.broker

    async def append(self, stream: Stream, subject: str, message: Message, *, scope: str, after: int) -> int:
        body = encode(message)
        assert selects(scope, subject)
        for _ in range(APPEND_TRIES):
            try:
                sequence = await self._process.ask(
                    "broker", lambda: self._broker.append(stream, subject, body, scope, after), APPEND_SECONDS
                )
            except LostAnswerError:
                continue
            return sequence or await self._own_or_conflict(stream, message, scope)
        raise TransientError(f"the event log did not take {subject}")

    async def _own_or_conflict(self, stream: Stream, message: Message, scope: str) -> int:
        history = await self.history(stream, scope)
        for recorded in history:
            if recorded.message.id == message.id:
                return recorded.sequence
        raise ConflictError(scope, history)

    async def history(self, stream: Stream, scope: str) -> list[Recorded]:
        try:
            return await self._process.ask(
                "broker", lambda: [stored.recorded for stored in self._broker.within(stream, scope)], ANSWER_SECONDS
            )
        except LostAnswerError:
            raise TransientError(f"the event log did not answer for {scope}") from None

    async def follow(self, stream: Stream, filters: Sequence[str], observe: Observe) -> Subscription:
        follower = Follower(self._process, self._broker, stream, filters, observe)
        self._broker.join(follower)
        follower.poke(stream)
        await follower.caught_up.wait()
        return follower

    async def consume(
        self, service: str, stream: Stream, filters: Sequence[str], deliver: Deliver, *, ack_wait_seconds: float
    ) -> Subscription:
        life = self._process.life

        def join() -> _Hands:
            consumer = self._broker.consumer(service, stream, filters, ack_wait_seconds)
            member = (self._process, deliver)
            if life is None or life.dead:  # its connection went with it, and a later life's is another
                return _Hands(consumer, member)
            consumer.members.append(member)
            consumer.dispatch()
            return _Hands(consumer, member)

        try:
            return await self._process.ask("broker", join, ANSWER_SECONDS)
        except LostAnswerError:
            raise TransientError("the event log did not answer") from None

    async def past_changed(self) -> str:
        return await asyncio.get_running_loop().create_future()

    async def dead_letter(self, subject: str, body: bytes, reasons: dict[str, str]) -> None:
        try:
            await self._process.ask("broker", lambda: self._broker.world.buried(subject, reasons), APPEND_SECONDS)
        except LostAnswerError:
            raise TransientError("the event log did not take a dead letter") from None


class Bucket:
    """A bucket as the broker holds it; values go `life_seconds` after they were written (0: never)."""

    def __init__(self, world: World, life_seconds: float) -> None:
        self.values: dict[str, tuple[bytes, int]] = {}
        self._world = world
        self._life_seconds = life_seconds
        self._revision = 0

    def write(self, key: str, value: bytes, expected: int | None) -> int:
        """Writes if the revision is as expected (0: nothing there, None: whatever). Raises KeyTakenError."""
        if expected is not None and self.values.get(key, (b"", 0))[1] != expected:
            raise KeyTakenError(key)
        self._revision += 1
        revision = self._revision
        self.values[key] = (value, revision)
        if self._life_seconds:
            self._world.loop.after(self._life_seconds, self._expire, key, revision)
        return revision

    def _expire(self, key: str, revision: int) -> None:
        if self.values.get(key, (b"", 0))[1] == revision:
            del self.values[key]


class SimBucket:
    """A bucket as one process reaches it. See `log.Bucket`."""

    def __init__(self, process: Process, name: str) -> None:
        self._process = process
        self._name = name
        self._bucket = process.world.broker.buckets[name]

    async def _ask(self, operation: Callable[[], Any]) -> Any:
        try:
            return await self._process.ask("broker", operation, ANSWER_SECONDS)
        except LostAnswerError:
            raise TransientError(f"bucket {self._name} did not answer") from None

    async def get(self, key: str) -> tuple[bytes, int] | None:
        return await self._ask(lambda: self._bucket.values.get(key))

    async def put(self, key: str, value: bytes) -> int:
        return await self._ask(lambda: self._bucket.write(key, value, None))

    async def create(self, key: str, value: bytes) -> int:
        return await self._ask(lambda: self._bucket.write(key, value, 0))

    async def update(self, key: str, value: bytes, revision: int) -> int:
        return await self._ask(lambda: self._bucket.write(key, value, revision))

    async def delete(self, key: str) -> None:
        await self._ask(lambda: self._bucket.values.pop(key, None))

    async def keys(self) -> list[str]:
        return await self._ask(lambda: list(self._bucket.values))
