"""The state of every session, folded from the whole log as it streams by. Keeps no event, so that any log fits."""

from __future__ import annotations

import gc
from datetime import datetime

import msgspec

from schemas.base import SessionId, event_name
from schemas.lifecycle import NOT_STARTED, IllegalEventError, SessionState, evolve
from schemas.session import SessionEvent
from schemas.subjects import Subjects
from services._runtime.log import Log, Recorded
from services._runtime.view import as_session_event
from services.operator_cli.output import telling


class Ignored(msgspec.Struct, frozen=True):
    """An event that every reader passes over, because the state of its session refuses it."""

    session: SessionId
    event: str
    at: datetime


class Sessions:
    """What a whole log says of sessions; `last` is when each was last heard of."""

    def __init__(self) -> None:
        self.states: dict[SessionId, SessionState] = {}
        self.last: dict[SessionId, datetime] = {}
        self.ignored: list[Ignored] = []
        self.events = 0

    async def read(self, log: Log, subjects: Subjects) -> None:
        """Reads the log from its first event to its last. Raises TransientError when that takes too long."""
        collects = gc.isenabled()
        gc.disable()  # nothing read has a cycle, and looking for one costs as much as reading it
        try:
            async with telling("events read", lambda: self.events):
                following = await log.follow("SESSIONS", [subjects.sessions()], self.take)
                await following.close()
        finally:
            if collects:
                gc.enable()

    def take(self, recorded: Recorded) -> None:
        """Folds one event into the state of its session."""
        event = recorded.message
        if not isinstance(event, SessionEvent):
            return
        self.events += 1
        session = event.session
        state = self.states.get(session, NOT_STARTED)
        try:
            self.states[session] = evolve(state, as_session_event(event))
        except IllegalEventError:
            self.states.setdefault(session, state)
            self.ignored.append(Ignored(session, event_name(event), event.at))
        self.last[session] = event.at
