"""Gives events their identity when they are appended. Decides nothing.

Ids are unguessable to everyone without the service's key, because JetStream deduplicates by id for a whole stream:
whoever could guess an id could have the real event dropped. They derive from content and position, so that the same
append repeated has the same id, and two replicas that append different things never share one.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from datetime import datetime
from hashlib import sha256
from typing import TypeVar

import msgspec

from schemas.base import EventId, Message

AnyMessage = TypeVar("AnyMessage", bound=Message)
_encoder = msgspec.json.Encoder()


class Stamp:
    """The seal of one service: its name as source, its key for ids, its clock for times."""

    def __init__(self, source: str, key: bytes, now: Callable[[], datetime]) -> None:
        if len(key) < 16:
            raise ValueError("the key for event ids needs at least 16 bytes; make a new one with `farlab keys`")
        self.source = source
        self.now = now
        self._key = key

    def of(self, source: str) -> Stamp:
        """The same seal under another name: what an operator says again in somebody's place."""
        return Stamp(source, self._key, self.now)

    def __call__(self, message: AnyMessage, *, after: int, cause: EventId | None) -> AnyMessage:
        """The message with id, time, source and cause, to be appended right after the sequence `after`."""
        placed = msgspec.structs.replace(message, cause=message.cause or cause, source=self.source)
        content = b"%d|" % after + _encoder.encode(placed)
        digest = hmac.new(self._key, content, sha256).hexdigest()[:32]
        return msgspec.structs.replace(placed, id=EventId(digest), at=self.now())
