"""What happens to a whole system: maintenance, drain, outage, recovery."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from schemas.base import Message, ShortText, SystemNameField, UtcDatetime


class SystemEvent(Message, frozen=True, kw_only=True):
    """Base of the events of a system: which one, by whom, why (shown to users)."""

    system: SystemNameField
    by: Annotated[str, Meta(max_length=255)]
    reason: ShortText


class SystemAnnounced(SystemEvent, frozen=True, kw_only=True, tag="system-announced.v1"):
    """A maintenance is planned."""

    starts: UtcDatetime
    ends: UtcDatetime | None = None


class SystemDrained(SystemEvent, frozen=True, kw_only=True, tag="system-drained.v1"):
    """New starts are refused; running sessions go on."""


class SystemResumed(SystemEvent, frozen=True, kw_only=True, tag="system-resumed.v1"):
    """New starts are welcome again."""


class SystemDown(SystemEvent, frozen=True, kw_only=True, tag="system-down.v1"):
    """The site does not answer."""


class SystemUp(SystemEvent, frozen=True, kw_only=True, tag="system-up.v1"):
    """The site answers again."""


AnySystemEvent = SystemAnnounced | SystemDrained | SystemResumed | SystemDown | SystemUp
