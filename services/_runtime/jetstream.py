"""The event log on NATS JetStream. Declares no stream and no bucket: that is `topology`'s one explicit step.

Behaviour that services rely on and that is not obvious (measured on nats-server 2.15): an expectation is checked before
`Nats-Msg-Id`, so a repeat after a lost answer is refused and must be found by its id; a refused request times out
rather than fails when permissions are missing.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import nats.errors
import nats.js.errors
import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from schemas.base import Message
from schemas.subjects import Subjects
from schemas.wire import UndecodableError, cloudevents_headers, decode, encode
from services._runtime.direct_get import stored
from services._runtime.errors import TransientError
from services._runtime.follower import Follower
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
from services._runtime.tasks import heeding_cancel
from services._runtime.telemetry import UNREADABLE, WENT_BACK
from services._runtime.topology import bucket_name, stream_name

_log = structlog.get_logger("farlab.jetstream")

WRONG_LAST_SEQUENCE = (10071, 10164)
"""API errors of a failed expectation (nats-server `errors.json`)."""
APPEND_SECONDS = 2.0
APPEND_TRIES = 4
HISTORY_SECONDS = 5.0
MOST_IN_HAND = 1024


class JetStreamLog:
    """One installation's log on a NATS connection that the caller opened and closes."""

    def __init__(self, client: Client, subjects: Subjects) -> None:
        self.client = client
        self.js: JetStreamContext = client.jetstream()
        self.subjects = subjects
        self._followers: list[Follower] = []
        self._past_changed: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def past_changed(self) -> str:
        """See `log.Log.past_changed`."""
        return await asyncio.shield(self._past_changed)

    def _went_back(self, how: str) -> None:
        if not self._past_changed.done():
            WENT_BACK.inc()
            _log.error("the event log went back to an older state", how=how)
            self._past_changed.set_result(how)

    def reconnected(self) -> None:
        """To be called when the connection is back: followers pick up at once instead of by their heartbeat."""
        for follower in self._followers:
            follower.resume()

    async def append(self, stream: Stream, subject: str, message: Message, *, scope: str, after: int) -> int:
        """See `log.Log.append`."""
        body = encode(message)
        headers: dict[str, Any] = cloudevents_headers(message)
        headers["Nats-Expected-Last-Subject-Sequence"] = str(after)
        headers["Nats-Expected-Last-Subject-Sequence-Subject"] = scope
        trouble: Exception | None = None
        for _ in range(APPEND_TRIES):
            try:
                with heeding_cancel():
                    answer = await self.js.publish(subject, body, timeout=APPEND_SECONDS, headers=headers)
            except nats.js.errors.APIError as error:
                if error.err_code in WRONG_LAST_SEQUENCE:
                    return await self._own_or_conflict(stream, message, scope)
                trouble = error
            except (nats.errors.Error, TimeoutError, ConnectionError) as error:
                trouble = error
            else:
                return answer.seq
        raise TransientError(f"the event log did not take {subject}: {trouble!r}")

    async def _own_or_conflict(self, stream: Stream, message: Message, scope: str) -> int:
        history = await self.history(stream, scope)
        for recorded in history:
            if recorded.message.id == message.id:
                return recorded.sequence
        raise ConflictError(scope, history)

    async def history(self, stream: Stream, scope: str) -> list[Recorded]:
        """See `log.Log.history`. One round trip per thousand messages (Direct Get batch, ADR-31)."""
        recorded: list[Recorded] = []
        try:
            async with asyncio.timeout(HISTORY_SECONDS):
                async for message in stored(self.client, stream_name(self.subjects, stream), scope):
                    sequence = message.sequence
                    recorded.extend(readable(sequence, message.body) or [Recorded(sequence, Unreadable())])
        except (nats.errors.Error, TimeoutError, ConnectionError) as error:
            raise TransientError(f"the event log did not answer for {scope}: {error!r}") from error
        return recorded

    async def follow(self, stream: Stream, filters: Sequence[str], observe: Observe) -> Subscription:
        """See `log.Log.follow`."""

        def take(sequence: int, body: bytes) -> None:
            for recorded in readable(sequence, body):
                observe(recorded)

        name = stream_name(self.subjects, stream)
        follower = Follower(self.js, name, filters, take, self._followers.remove, self._went_back)
        self._followers.append(follower)
        await follower.begin()
        return follower

    async def consume(
        self, service: str, stream: Stream, filters: Sequence[str], deliver: Deliver, *, ack_wait_seconds: float
    ) -> Subscription:
        """See `log.Log.consume`: a durable push consumer whose queue group is the service's replicas."""
        inbox = f"{self.subjects.prefix}.deliver.{service}.{stream.lower()}"
        hands = _Hands(deliver)
        hands.subscription = await self.client.subscribe(
            inbox, queue=service, cb=hands.take, pending_msgs_limit=-1, pending_bytes_limit=-1
        )
        config = ConsumerConfig(
            durable_name=service,
            deliver_subject=inbox,
            deliver_group=service,
            deliver_policy=DeliverPolicy.ALL,
            ack_policy=AckPolicy.EXPLICIT,
            ack_wait=ack_wait_seconds,
            max_ack_pending=MOST_IN_HAND,
            max_deliver=-1,
            filter_subjects=list(filters),
        )
        await self.js.add_consumer(stream_name(self.subjects, stream), config)
        return hands

    async def dead_letter(self, subject: str, body: bytes, reasons: dict[str, str]) -> None:
        """See `log.Log.dead_letter`."""
        try:
            with heeding_cancel():
                await self.js.publish(subject, body, timeout=APPEND_SECONDS, headers=dict(reasons))
        except (nats.errors.Error, TimeoutError) as error:
            raise TransientError(f"the event log did not take a dead letter: {error!r}") from error


def readable(sequence: int, body: bytes) -> list[Recorded]:
    """The message in a body, or nothing where this build cannot read it, counted."""
    try:
        return [Recorded(sequence, decode(body))]
    except UndecodableError as error:
        UNREADABLE.labels(type(error).__name__).inc()
        _log.warning("unreadable message in the log", sequence=sequence, reason=str(error))
        return []


class _Hands:
    """The deliveries one replica has in hand."""

    def __init__(self, deliver: Deliver) -> None:
        self.subscription: Any = None
        self._deliver = deliver
        self._tasks: dict[asyncio.Task[None], Msg] = {}

    async def take(self, message: Msg) -> None:
        task = asyncio.create_task(self._deliver(_JetStreamDelivery(message)))
        self._tasks[task] = message
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.pop(task, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("a delivery was left unanswered", exc_info=error)

    async def close(self, patience_seconds: float = 5.0) -> None:
        """Takes no more; finishes what is in hand within the patience, and hands the rest back."""
        with contextlib.suppress(nats.errors.Error):
            await self.subscription.unsubscribe()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=patience_seconds)
        for task, message in list(self._tasks.items()):
            task.cancel()
            with contextlib.suppress(nats.errors.Error):
                await message.nak()


class _JetStreamDelivery:
    def __init__(self, message: Msg) -> None:
        self._message = message
        self.subject = message.subject
        self.body = message.data
        self.sequence = message.metadata.sequence.stream
        self.attempt = message.metadata.num_delivered or 1

    async def acknowledge(self) -> None:
        await self._message.ack()

    async def retry(self, delay_seconds: float) -> None:
        await self._message.nak(delay=delay_seconds)

    async def working(self) -> None:
        with contextlib.suppress(nats.errors.Error):
            await self._message.in_progress()


class JetStreamBucket:
    """A key-value bucket on JetStream."""

    def __init__(self, js: JetStreamContext, subjects: Subjects, bucket: str) -> None:
        self._js = js
        self._name = bucket_name(subjects, bucket)
        self._opened: Any = None

    async def _run(self, operation: Callable[[Any], Any]) -> Any:
        try:
            with heeding_cancel():
                if self._opened is None:
                    self._opened = await self._js.key_value(self._name)
                return await operation(self._opened)
        except nats.js.errors.KeyWrongLastSequenceError as error:
            raise KeyTakenError(str(error)) from error
        except (nats.js.errors.KeyNotFoundError, nats.js.errors.NoKeysError):
            return None
        except (nats.errors.Error, TimeoutError, ConnectionError) as error:
            raise TransientError(f"bucket {self._name} did not answer: {error!r}") from error

    async def get(self, key: str) -> tuple[bytes, int] | None:
        """See `log.Bucket.get`."""
        entry = await self._run(lambda kv: kv.get(key))
        return None if entry is None else (entry.value, entry.revision)

    async def put(self, key: str, value: bytes) -> int:
        """See `log.Bucket.put`."""
        return int(await self._run(lambda kv: kv.put(key, value)))

    async def create(self, key: str, value: bytes) -> int:
        """See `log.Bucket.create`."""
        return self._taken(key, await self._run(lambda kv: kv.create(key, value)))

    async def update(self, key: str, value: bytes, revision: int) -> int:
        """See `log.Bucket.update`."""
        return self._taken(key, await self._run(lambda kv: kv.update(key, value, last=revision)))

    @staticmethod
    def _taken(key: str, revision: int | None) -> int:
        if revision is None:  # it was there, and expired before nats-py had looked at it: the next try finds it free
            raise KeyTakenError(key)
        return int(revision)

    async def delete(self, key: str) -> None:
        """See `log.Bucket.delete`: purged, so that no earlier value stays behind."""
        await self._run(lambda kv: kv.purge(key))

    async def keys(self) -> list[str]:
        """See `log.Bucket.keys`."""
        return list(await self._run(lambda kv: kv.keys()) or [])
