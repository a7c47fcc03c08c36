"""The dead letters of an installation as an operator reads them. Buries nothing and brings nothing back."""

from __future__ import annotations

from datetime import datetime

import msgspec
import nats.errors

from services._runtime.direct_get import stored
from services._runtime.errors import TransientError
from services._runtime.jetstream import JetStreamLog
from services._runtime.topology import stream_name


class Letter(msgspec.Struct, frozen=True, kw_only=True):
    """A message that a service gave up on: its place in DEAD_LETTERS, where it was appended first, and why."""

    sequence: int
    service: str
    event: str
    subject: str
    reason: str
    at: str
    body: bytes

    @property
    def when(self) -> datetime:
        """When it was buried, by the server's clock."""
        return datetime.fromisoformat(self.at)


async def letters(log: JetStreamLog) -> list[Letter]:
    """All dead letters, oldest first. Raises TransientError when the log does not answer."""
    found = []
    everything = log.subjects.family("dead")
    try:
        async for message in stored(log.client, stream_name(log.subjects, "DEAD_LETTERS"), everything):
            service, event = message.headers["Nats-Subject"].split(".")[-2:]
            found.append(
                Letter(
                    sequence=message.sequence,
                    service=service,
                    event=event,
                    subject=message.headers.get("Farlab-Subject", ""),
                    reason=message.headers.get("Farlab-Reason", ""),
                    at=message.headers["Nats-Time-Stamp"],
                    body=message.body,
                )
            )
    except (nats.errors.Error, TimeoutError, ConnectionError) as error:
        raise TransientError(f"the event log did not answer for dead letters: {error!r}") from error
    return found
