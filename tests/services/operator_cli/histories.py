"""Histories made by hand: events at seconds of their own, each caused by the one before."""

from __future__ import annotations

from datetime import timedelta

import msgspec

from schemas.session import SessionEvent
from services._runtime.log import Recorded
from tests.support.samples import NOW, stamp


def recorded(*events: SessionEvent, first: int = 1) -> list[Recorded]:
    """A history, one second between its events, each caused by the one before."""
    history: list[Recorded] = []
    for number, event in enumerate(events, first):
        cause = history[-1].message.id if history else None
        stamped = stamp("farlab/test")(event, after=number - 1, cause=cause)
        history.append(Recorded(number, msgspec.structs.replace(stamped, at=NOW + timedelta(seconds=number))))
    return history
