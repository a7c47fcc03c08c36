"""Puts an operator's events into the log, after whatever stands there. Says nothing of what they mean."""

from __future__ import annotations

from schemas.acts import Act
from schemas.subjects import Subjects
from schemas.system import SystemEvent
from services._runtime.identity import AnyMessage, Stamp
from services._runtime.log import ConflictError, Log, Stream


class Operator:
    """An operator's hand in one installation."""

    def __init__(self, log: Log, subjects: Subjects, stamp: Stamp) -> None:
        self.log = log
        self.subjects = subjects
        self._stamp = stamp

    async def act(self, act: Act) -> Act:
        """Appends an act; as it stands in the log."""
        subject = self.subjects.act(act)
        return await self._append("ACTS", subject, subject, act)

    async def announce(self, event: SystemEvent, name: str) -> SystemEvent:
        """Appends an event of a system; as it stands in the log."""
        return await self._append(
            "SYSTEMS", self.subjects.system_event(event.system, name), self.subjects.system(event.system), event
        )

    async def _append(self, stream: Stream, subject: str, scope: str, message: AnyMessage) -> AnyMessage:
        history = await self.log.history(stream, scope)
        while True:
            after = history[-1].sequence if history else 0
            stamped = self._stamp(message, after=after, cause=None)
            try:
                await self.log.append(stream, subject, stamped, scope=scope, after=after)
            except ConflictError as conflict:
                history = list(conflict.history)
                continue
            return stamped
