"""Where histories come from: the event log of an installation, or a bundle that somebody exported. Changes neither."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from schemas.base import SessionId
from schemas.session import SessionEvent
from schemas.subjects import Subjects
from services._runtime.log import Log, Recorded
from services.operator_cli.bundle import Bundle
from services.operator_cli.output import telling
from services.operator_cli.story.history import History


class Histories(Protocol):
    """Sessions that can be read."""

    async def all(self, *, system: str = "*") -> Sequence[History]:
        """The histories of all sessions, oldest first. `system` narrows it; a star stands for every system."""


class LogHistories:
    """The sessions in an event log, as it is when they are asked for."""

    def __init__(self, log: Log, subjects: Subjects) -> None:
        self._log = log
        self._subjects = subjects

    async def all(self, *, system: str = "*") -> Sequence[History]:
        """See Histories."""
        histories: dict[SessionId, list[Recorded]] = {}

        read = 0

        def take(recorded: Recorded) -> None:
            nonlocal read
            read += 1
            if isinstance(recorded.message, SessionEvent):
                histories.setdefault(recorded.message.session, []).append(recorded)

        async with telling("events read", lambda: read):
            following = await self._log.follow("SESSIONS", [self._subjects.sessions(system=system)], take)
            await following.close()
        return list(histories.values())


class BundleHistories:
    """The sessions in a bundle."""

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle

    async def all(self, *, system: str = "*") -> Sequence[History]:
        """See Histories."""
        return [
            history
            for history in self._bundle.histories
            if system == "*" or (isinstance(history[0].message, SessionEvent) and history[0].message.system == system)
        ]
