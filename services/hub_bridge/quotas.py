"""What is used of quotas now, for whoever waits for a share. Follows the log's quotas; decides nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

from schemas.lifecycle import Waiting
from schemas.quota import QuotaUpdated
from schemas.session import StartRequested
from schemas.subjects import Subjects
from services._runtime.log import Log, Recorded, Subscription
from services.hub_bridge.progress import Message

HOUR_SECONDS = 3600
GIBIBYTE = 2**30
WAITING = 6
"""The progress of a start that waits its turn, in percent."""
NAMES = {
    "memory-bytes": ("GiB of memory", GIBIBYTE),
    "core-seconds": ("core-hours", HOUR_SECONDS),
    "gpu-seconds": ("GPU-hours", HOUR_SECONDS),
    "gpus": ("GPUs", 1),
}

Line = tuple[str, str]
"""A virtual organisation at a system."""


def line_of(state: object) -> Line | None:
    """Where a session waits its turn; None: it does not."""
    return _line(state.request) if isinstance(state, Waiting) else None


def _line(request: StartRequested) -> Line:
    return request.vo, request.system


class QuotaBoard:
    """The last word on every quota."""

    def __init__(self, log: Log, subjects: Subjects) -> None:
        self._log = log
        self._subjects = subjects
        self._last: dict[Line, dict[str, QuotaUpdated]] = {}
        self._bells: dict[Line, asyncio.Event] = {}
        self._subscription: Subscription | None = None

    async def start(self) -> None:
        """Returns when all that is in the log now is known here."""
        self._subscription = await self._log.follow("QUOTAS", [self._subjects.family("quota")], self.take)

    async def close(self) -> None:
        """Stops following."""
        if self._subscription is not None:
            await self._subscription.close()

    def take(self, recorded: Recorded) -> None:
        """Takes a change of a quota."""
        event = recorded.message
        if isinstance(event, QuotaUpdated):
            line = (event.vo, str(event.system))
            self._last.setdefault(line, {})[event.resource] = event
            if (bell := self._bells.pop(line, None)) is not None:
                bell.set()

    def bell(self, line: Line) -> asyncio.Event:
        """What is set at the next change of one of the line's quotas."""
        return self._bells.setdefault(line, asyncio.Event())

    def said(self, line: Line, title: Callable[[str], str] = str) -> str:
        """What is used of the line's limited quotas, in words; empty when none has a limit."""
        quotas = self._last.get(line, {}).values()
        parts = [_used(event) for event in sorted(quotas, key=lambda each: each.resource) if event.limit is not None]
        return f"In use on {title(line[1])}: {', '.join(parts)}." if parts else ""


def _used(event: QuotaUpdated) -> str:
    name, unit = NAMES.get(event.resource, (event.resource, 1))
    return f"{event.used / unit:.4g} of {(event.limit or 0) / unit:.4g} {name}"


async def beside(
    messages: AsyncIterator[Message], board: QuotaBoard, waits: Callable[[], Line | None], title: Callable[[str], str]
) -> AsyncIterator[Message]:
    """The messages and, while the start waits its turn, what becomes of the quotas it waits for."""
    coming: asyncio.Future[Message | None] | None = None
    told = ""
    try:
        while True:
            line = waits()
            if line is None:  # at once: who reads a page that is about to end gets only what is there
                said = await (_next(messages) if coming is None else coming)
            else:
                bell = board.bell(line)  # before it is read, so that no change is missed
                if (now := board.said(line, title)) not in ("", told):
                    told = now
                    yield {"progress": WAITING, "message": now, "event": "quota-updated"}
                if coming is None:
                    coming = asyncio.ensure_future(_next(messages))
                await _either(coming, bell)
                if not coming.done():
                    continue
                said = coming.result()
            coming = None
            if said is None:
                return
            yield said
    finally:
        if coming is not None:
            coming.cancel()


async def _next(messages: AsyncIterator[Message]) -> Message | None:
    return await anext(messages, None)


async def _either(coming: asyncio.Future[Message | None], bell: asyncio.Event) -> None:
    """Until the next message is there, or the bell rings."""
    rings: asyncio.Future[Any] = asyncio.ensure_future(bell.wait())
    waiting: list[asyncio.Future[Any]] = [coming, rings]
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    finally:
        rings.cancel()
