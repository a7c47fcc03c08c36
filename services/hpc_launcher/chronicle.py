"""What the launcher must remember of a session beyond its state, read from the same events. Asks nobody."""

from __future__ import annotations

from datetime import datetime

from schemas.base import SessionId
from schemas.lifecycle import SessionState
from schemas.session import JobStatusChanged, ProgressReported, Running, ServerListening, SessionEnded, SessionEvent
from services._runtime.log import Recorded


class Chronicle:
    """Since when jobs run, and what they said already. Give `observe` to the view before it follows the log."""

    def __init__(self) -> None:
        self._running_since: dict[SessionId, datetime] = {}
        self._said: dict[SessionId, set[tuple[int, str]]] = {}

    def observe(self, recorded: Recorded, _before: SessionState, _after: SessionState) -> None:
        """Takes an event that entered the view."""
        event = recorded.message
        if not isinstance(event, SessionEvent):
            return
        match event:
            case JobStatusChanged(session=session, job_status=Running(), at=at):
                self._running_since.setdefault(session, at)
            case ServerListening(session=session, at=at):
                self._running_since.setdefault(session, at)
                self._said.pop(session, None)
            case ProgressReported(session=session, percent=percent, message=message):
                self._said.setdefault(session, set()).add((percent, message))
            case SessionEnded(session=session):
                self._running_since.pop(session, None)
                self._said.pop(session, None)
            case _:
                pass

    def running_since(self, session: SessionId) -> datetime | None:
        """When the job of a live session was first known to run."""
        return self._running_since.get(session)

    def was_said(self, session: SessionId, percent: int, message: str) -> bool:
        """Whether this line of the job is in the log already."""
        return (percent, message) in self._said.get(session, ())
