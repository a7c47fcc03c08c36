"""Follows a stream from its first message without end, in order, over broker restarts. Acknowledges nothing.

An ephemeral push consumer that is made anew, right after the last message seen, whenever its numbering has a gap, its
heartbeat is silent or the connection was lost (the ordered consumer of NATS ADR-17).
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Callable, Sequence
from typing import Any

import nats.errors
import nats.js.errors
import structlog
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from services._runtime.errors import TransientError
from services._runtime.nats_client import QuickClient
from services._runtime.tasks import end

_log = structlog.get_logger("farlab.follower")

HEARTBEAT_SECONDS = 1.0
SILENCE_SECONDS = 3.0
RETRY_SECONDS = 0.1
CATCH_UP_SECONDS = 120.0

Take = Callable[[int, bytes], None]
WentBack = Callable[[str], None]
"""Told, in words, that what was read from the log is not in it any more."""


class Follower:
    """One reader of one stream."""

    def __init__(
        self,
        js: JetStreamContext,
        stream: str,
        filters: Sequence[str],
        take: Take,
        closed: Callable[[Follower], None],
        went_back: WentBack,
    ) -> None:
        self._js = js
        self._client: Any = js._nc
        self._stream = stream
        self._filters = list(filters)
        self._take = take
        self._closed = closed
        self._went_back = went_back
        self._last_stream_sequence = 0
        self._last_body = b""
        self._last_consumer_sequence = 0
        self._name = ""
        self._subscription: Any = None
        self._heard = 0.0
        self._broken = asyncio.Event()
        self._caught_up = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None

    async def begin(self) -> None:
        """Returns when everything now in the stream has been taken. Raises TransientError when that takes too long."""
        self._broken.set()
        self._keeper = asyncio.create_task(self._keep())
        try:
            async with asyncio.timeout(CATCH_UP_SECONDS):
                await self._caught_up.wait()
        except TimeoutError:
            await self.close()
            raise TransientError(f"stream {self._stream} could not be read within {CATCH_UP_SECONDS:.0f} s") from None

    def resume(self) -> None:
        """Makes the consumer anew now."""
        self._broken.set()

    async def close(self) -> None:
        """Stops following."""
        if self._keeper is not None:
            await end([self._keeper])
            self._keeper = None
            self._closed(self)
        await self._forget()

    async def _keep(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SILENCE_SECONDS / 3):
                    await self._broken.wait()
            if not self._broken.is_set() and loop.time() - self._heard < SILENCE_SECONDS:
                continue
            self._broken.clear()
            try:
                await self._forget()
                await self._compare()
                await self._create()
            except (nats.errors.Error, TimeoutError, ConnectionError) as error:
                _log.info("following again soon", stream=self._stream, reason=repr(error))
                await asyncio.sleep(RETRY_SECONDS)
                self._broken.set()

    async def _compare(self) -> None:
        """Looks whether the last message seen is still in the log; it may be older than what is kept.

        A broker whose disk was copied back gives new messages the numbers of those that are lost: whoever goes on
        after the last one seen would wait, deaf, until their number is passed.
        """
        seen = self._last_stream_sequence
        if not seen:
            return
        state = (await self._js.stream_info(self._stream)).state
        if state.last_seq < seen:
            self._went_back(f"{self._stream} ends at message {state.last_seq}, and {seen} was read from it")
        elif state.first_seq <= seen:
            try:
                now = (await self._js.get_msg(self._stream, seen, direct=True)).data
            except nats.js.errors.NotFoundError:
                return
            if now != self._last_body:
                self._went_back(f"{self._stream} holds another message {seen} than was read from it")

    async def _create(self) -> None:
        inbox = self._client.new_inbox()
        self._name = f"follow-{secrets.token_hex(8)}"
        self._last_consumer_sequence = 0
        self._heard = asyncio.get_running_loop().time()
        self._subscription = await self._client.subscribe(
            inbox, cb=self._on_message, pending_msgs_limit=-1, pending_bytes_limit=-1
        )
        if isinstance(self._client, QuickClient):
            self._client.take_straight(self._subscription._id, self._straight)
        info = await self._js.add_consumer(
            self._stream,
            ConsumerConfig(
                name=self._name,
                deliver_subject=inbox,
                deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
                opt_start_seq=self._last_stream_sequence + 1,
                ack_policy=AckPolicy.NONE,
                filter_subjects=self._filters,
                max_deliver=1,
                flow_control=True,
                idle_heartbeat=HEARTBEAT_SECONDS,
                inactive_threshold=10.0,
                mem_storage=True,
                num_replicas=1,
            ),
            timeout=2.0,
        )
        if not info.num_pending and not (info.delivered and info.delivered.consumer_seq):
            self._caught_up.set()

    async def _forget(self) -> None:
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            if isinstance(self._client, QuickClient):
                self._client.take_straight(subscription._id, None)
            with contextlib.suppress(nats.errors.Error):
                await subscription.unsubscribe()
            with contextlib.suppress(nats.errors.Error, TimeoutError):
                await self._client.publish(f"$JS.API.CONSUMER.DELETE.{self._stream}.{self._name}", b"")

    async def _on_message(self, message: Msg) -> None:
        if self._subscription is None or message._sid != self._subscription._id:
            return
        self._heard = asyncio.get_running_loop().time()
        if message.headers and message.headers.get("Status") == "100":
            await self._on_status(message)
            return
        self._on_event(message.reply, message.data)

    def _on_event(self, reply: str, body: bytes) -> None:
        sequence, consumer_sequence, pending = _place(reply)
        if consumer_sequence != self._last_consumer_sequence + 1:
            self._broken.set()
            return
        self._last_consumer_sequence = consumer_sequence
        self._last_stream_sequence, self._last_body = sequence, body
        self._take(sequence, body)
        if not pending:
            self._caught_up.set()

    def _straight(self, reply: str, body: bytes) -> None:
        self._heard = asyncio.get_running_loop().time()
        try:
            self._on_event(reply, body)
        except Exception:
            _log.exception("a message of the log could not be taken", stream=self._stream)

    async def _on_status(self, message: Msg) -> None:
        headers = message.headers or {}
        if message.reply:
            await message.respond(b"")
        elif stalled := headers.get("Nats-Consumer-Stalled"):
            await self._client.publish(stalled, b"")
        # What came after this word may have been taken before it.
        if int(headers.get("Nats-Last-Consumer", self._last_consumer_sequence)) > self._last_consumer_sequence:
            self._broken.set()


def _place(reply: str) -> tuple[int, int, int]:
    """Sequence in the stream, sequence of the consumer, and how many are yet to come, from an acknowledgement subject.

    The server knows two forms of it, with and without domain and account (NATS ADR-15). As nats-py's `metadata`, which
    also makes times and objects of the rest.
    """
    tokens = reply.split(".")
    first = 5 if len(tokens) == 9 else 7
    return int(tokens[first]), int(tokens[first + 1]), int(tokens[first + 3])
