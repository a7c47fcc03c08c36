"""The events of one session with what each did, why, and how long it took to come. Pure."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec

from schemas.base import message_type
from services.operator_cli.story.history import History, moments, state_name

ENVELOPE = ("type", "id", "at", "source", "cause", "hub", "system", "session")


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One event in a timeline; `after_seconds` since the event before."""

    sequence: int
    type: str
    at: datetime
    after_seconds: float
    source: str
    state: str
    id: str
    cause: str | None
    details: dict[str, Any]


def timeline(history: History) -> list[Step]:
    """The events of one session with the time each took to come."""
    steps: list[Step] = []
    before: datetime | None = None
    for moment in moments(history):
        event = moment.event
        fields = msgspec.to_builtins(event)
        steps.append(
            Step(
                sequence=moment.sequence,
                type=message_type(event),
                at=event.at,
                after_seconds=(event.at - before).total_seconds() if before else 0.0,
                source=event.source,
                state=state_name(moment.after) if moment.legal else "(ignored)",
                id=event.id,
                cause=event.cause,
                details={key: value for key, value in fields.items() if key not in ENVELOPE},
            )
        )
        before = event.at
    return steps
