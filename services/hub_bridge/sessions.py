"""The sessions of this hub as its spawners see them: one follower for all. Decides nothing and asks the log nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence

import structlog

from schemas.base import HubName, SessionId
from schemas.lifecycle import (
    Cancelling,
    Ended,
    Interrupted,
    NotStarted,
    Ready,
    Rejected,
    SessionState,
    Stopping,
    Withdrawn,
)
from schemas.session import AnySessionEvent, SessionEvent, StartRequested
from schemas.subjects import Subjects
from services._runtime.consumer import SessionConsumer
from services._runtime.decider import Emit, Perform
from services._runtime.errors import PermanentError
from services._runtime.identity import Stamp
from services._runtime.log import Log, Recorded, Subscription
from services._runtime.view import SessionView, as_session_event

Watch = Callable[[AnySessionEvent, SessionState], None]
"""Called with an event and the state after it."""

NOT_STARTED = NotStarted()
ENDING = Rejected | Withdrawn | Cancelling | Stopping
"""States from which only the end can follow."""

_log = structlog.get_logger("farlab.hub_bridge")


class Sessions:
    """States and stories of all sessions of one hub, and the hub's own voice in the log."""

    def __init__(self, log: Log, subjects: Subjects, stamp: Stamp, hub: HubName) -> None:
        self.view = SessionView()
        self._log = log
        self._subjects = subjects
        self._filters = [subjects.sessions(hub=hub)]
        self._consumer: SessionConsumer[None] = SessionConsumer(
            log=log,
            subjects=subjects,
            view=self.view,
            stamp=stamp,
            decide=_nothing,
            perform=_no_act,
            give_up=_no_words,
        )
        self._by_server: dict[tuple[str, str], SessionId] = {}
        self._stories: dict[SessionId, list[AnySessionEvent]] = {}
        self._bells: dict[SessionId, asyncio.Event] = {}
        self._watches: list[Watch] = []
        self._subscription: Subscription | None = None
        self.view.watch(self._take)

    async def start(self) -> None:
        """Returns when all that is in the log now is known here."""
        self._subscription = await self.view.follow(self._log, self._filters)

    async def close(self) -> None:
        """Stops following."""
        if self._subscription is not None:
            await self._subscription.close()

    def watch(self, watch: Watch) -> None:
        """Calls `watch` for every event from now on."""
        self._watches.append(watch)

    def state(self, session: SessionId) -> SessionState:
        """The session's state, NotStarted when the log does not know it."""
        known = self.view.get(session)
        return NOT_STARTED if known is None else known.state

    def live(self, user: str, server_name: str) -> SessionId | None:
        """The session of a user's server that has not ended."""
        return self._by_server.get((user, server_name))

    async def record(self, event: SessionEvent) -> bool:
        """Appends an event of ours. False: the session's state refuses it. Raises TransientError."""
        return await self._consumer.record(event)

    async def wait_for(self, session: SessionId, wanted: Callable[[SessionState], bool]) -> SessionState:
        """Waits, without end if need be, until the session's state is as wanted."""
        while not wanted(state := self.state(session)):
            await self._changed(session)
        return state

    async def story(self, session: SessionId) -> AsyncIterator[AnySessionEvent]:
        """A session's events from the first on, as they come, until it is ready or has ended. Any number of readers."""
        told = self._stories.get(session) or await self._remembered(session)
        position = 0
        while True:
            while position < len(told):
                yield told[position]
                position += 1
            if isinstance(self.state(session), Ready | Interrupted | Ended):
                return
            await self._changed(session)
            told = self._stories.get(session, told)

    async def _remembered(self, session: SessionId) -> list[AnySessionEvent]:
        if isinstance(self.state(session), NotStarted):
            return []
        history: Sequence[Recorded] = await self._log.history("SESSIONS", self._subjects.session(session))
        return [as_session_event(each.message) for each in history if isinstance(each.message, SessionEvent)]

    async def _changed(self, session: SessionId) -> None:
        await self._bells.setdefault(session, asyncio.Event()).wait()

    def _take(self, recorded: Recorded, before: SessionState, after: SessionState) -> None:
        if not isinstance(recorded.message, SessionEvent):
            return
        event = as_session_event(recorded.message)
        session = event.session
        if isinstance(event, StartRequested) and isinstance(before, NotStarted):
            self._by_server[event.user, event.server_name] = session
            self._stories[session] = []
        if session in self._stories:
            self._stories[session].append(event)
        if isinstance(after, Ready | Interrupted | Ended):
            self._stories.pop(session, None)  # who reads it now holds the list; later readers ask the log
        if isinstance(after, Ended):
            server = (after.request.user, after.request.server_name)
            if self._by_server.get(server) == session:
                del self._by_server[server]
        if (bell := self._bells.pop(session, None)) is not None:
            bell.set()
        for watch in self._watches:
            watch(event, after)


def _nothing(_state: SessionState, _event: AnySessionEvent | None) -> list[Emit | Perform[None]]:
    return []


async def _no_act(_command: None) -> list[SessionEvent]:
    return []


def _no_words(_state: SessionState, _error: PermanentError) -> list[Emit | Perform[None]]:
    return []
