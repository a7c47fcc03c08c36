"""The event log as services see it: compare-and-append, histories, followers, deliveries. Says nothing of NATS.

Two implementations hold the same semantics, pinned by one contract test: `jetstream` and `memory`.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Literal, Protocol

import msgspec

from schemas.base import Message

Stream = Literal["SESSIONS", "QUOTAS", "ACCESS", "SYSTEMS", "ACTS", "DEAD_LETTERS"]


class Recorded(msgspec.Struct, frozen=True):
    """A message of the log with its sequence in its stream."""

    sequence: int
    message: Message


class Unreadable(Message, frozen=True, kw_only=True):
    """Stands in a history for a message this build cannot read: whoever appends next must append after it."""


class ConflictError(Exception):
    """Someone else appended within the scope first; `history` is what the log holds there now."""

    def __init__(self, scope: str, history: Sequence[Recorded]) -> None:
        self.scope = scope
        self.history = history
        super().__init__(f"{scope} moved on while a message was being appended")


class Delivery(Protocol):
    """One message on its way to one handler; `acknowledge` or `retry` ends it."""

    @property
    def subject(self) -> str:
        """Where it was appended."""

    @property
    def body(self) -> bytes:
        """The bytes as they were appended."""

    @property
    def sequence(self) -> int:
        """Its sequence in its stream."""

    @property
    def attempt(self) -> int:
        """How often it was delivered, counting from 1."""

    async def acknowledge(self) -> None:
        """It is done; it never comes again."""

    async def retry(self, delay_seconds: float) -> None:
        """It shall come again after the delay."""

    async def working(self) -> None:
        """It takes longer; the redelivery clock starts anew."""


Deliver = Callable[[Delivery], Coroutine[Any, Any, None]]
Observe = Callable[[Recorded], None]


class Subscription(Protocol):
    """Something that goes on until it is closed."""

    async def close(self) -> None:
        """Takes no new message; returns when those in hand are answered or handed back."""


class Log(Protocol):
    """The event log of one installation."""

    async def append(self, stream: Stream, subject: str, message: Message, *, scope: str, after: int) -> int:
        """Appends a stamped message if `after` is still the last sequence in `scope` (0: there is none).

        `scope` is a subject filter that selects `subject`. Returns the new sequence. Safe to repeat with the same
        message: an append whose answer was lost is found by its id. Raises ConflictError when the scope moved on,
        TransientError when the log is away.
        """

    async def history(self, stream: Stream, scope: str) -> list[Recorded]:
        """All messages in the scope, oldest first; in place of one this build cannot read stands an Unreadable."""

    async def follow(self, stream: Stream, filters: Sequence[str], observe: Observe) -> Subscription:
        """Calls `observe` with every message the filters select, from the first on, in order, without end.

        Those this build cannot read are left out, counted. Returns when all that is in the log now has been observed.
        """

    async def consume(
        self, service: str, stream: Stream, filters: Sequence[str], deliver: Deliver, *, ack_wait_seconds: float
    ) -> Subscription:
        """Delivers each message to one of the service's replicas, again until it is acknowledged.

        `deliver` is called concurrently. The service's place in the log is durable.
        """

    async def dead_letter(self, subject: str, body: bytes, reasons: dict[str, str]) -> None:
        """Puts a message that a service gave up on into DEAD_LETTERS, whole, with the reasons as headers."""

    async def past_changed(self) -> str:
        """Returns, in words, when what was read from the log is not in it any more, as after a disk was copied back.

        Whatever is in memory is then wrong; only a new start reads the log as it is now.
        """


class KeyTakenError(Exception):
    """The key exists, or has another revision than expected."""


class Bucket(Protocol):
    """A key-value bucket: what is not history. Keys are slugs joined by dots."""

    async def get(self, key: str) -> tuple[bytes, int] | None:
        """The value and its revision, or None."""

    async def put(self, key: str, value: bytes) -> int:
        """Writes whatever is there now; returns the new revision."""

    async def create(self, key: str, value: bytes) -> int:
        """Writes if nothing is there. Raises KeyTakenError."""

    async def update(self, key: str, value: bytes, revision: int) -> int:
        """Writes if `revision` still holds. Raises KeyTakenError."""

    async def delete(self, key: str) -> None:
        """Removes the value, history included; a missing key is no error."""

    async def keys(self) -> list[str]:
        """All keys that have a value."""
