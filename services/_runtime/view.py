"""The states of sessions in memory, folded from the log as it grows. Appends nothing and decides nothing.

One follower feeds the view with everything its filters select, so a handler finds the state of a session without asking
the log. Being behind is harmless: compare-and-append refuses what was decided on an old state.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import cast, get_args

import msgspec

from schemas.base import SessionId
from schemas.lifecycle import NOT_STARTED, Ended, IllegalEventError, NotStarted, SessionState, evolve
from schemas.session import AnySessionEvent, SessionEvent
from services._runtime.log import Log, Recorded, Subscription

CONCRETE = frozenset(get_args(AnySessionEvent))
ENDED_KEPT = 10_000
"""How many ended sessions the view remembers, newest first: enough to answer late messages from memory."""


class Placed(msgspec.Struct, frozen=True):
    """A session's state and the sequence of the last event in it; 0 with no event."""

    state: SessionState
    sequence: int


Watch = Callable[[Recorded, SessionState, SessionState], None]
"""Called with an event, the state before and the state after it."""

NOTHING = Placed(NOT_STARTED, 0)


class SessionView:
    """The states of all sessions that a service's filters select."""

    def __init__(self) -> None:
        self.sequence = 0
        self._live: dict[SessionId, Placed] = {}
        self._ended: OrderedDict[SessionId, Placed] = OrderedDict()
        self._watches: list[Watch] = []
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []

    async def follow(self, log: Log, filters: Sequence[str]) -> Subscription:
        """Begins to follow the log; returns when the view holds all that is there now."""
        return await log.follow("SESSIONS", filters, self.observe)

    def watch(self, watch: Watch) -> None:
        """Calls `watch` for every event that enters the view from now on, in order of the log."""
        self._watches.append(watch)

    def get(self, session: SessionId) -> Placed | None:
        """What the view knows of a session, or None."""
        return self._live.get(session) or self._ended.get(session)

    def live(self) -> Iterator[tuple[SessionId, Placed]]:
        """The sessions that have not ended. Safe to iterate while the view grows."""
        return iter(list(self._live.items()))

    def known(self) -> Iterator[tuple[SessionId, Placed]]:
        """Every session in the view, those that have ended too as far as they are remembered."""
        return iter([*self._live.items(), *self._ended.items()])

    def __len__(self) -> int:
        return len(self._live)

    def observe(self, recorded: Recorded) -> None:
        """Takes an event from the follower, which delivers everything up to its sequence in order."""
        self.learn(recorded)
        self.sequence = max(self.sequence, recorded.sequence)
        if self._waiting:
            for reached, waiter in self._waiting:
                if reached <= self.sequence and not waiter.done():
                    waiter.set_result(None)
            self._waiting = [pair for pair in self._waiting if not pair[1].done()]

    def learn(self, recorded: Recorded) -> None:
        """Takes an event that did not come from the follower: our own append, or a history read. Each counts once."""
        event = recorded.message
        if isinstance(event, SessionEvent):
            self._take(event, recorded)

    async def reached(self, sequence: int, timeout_seconds: float) -> bool:
        """Waits until the follower has delivered everything up to a sequence; False when it takes too long."""
        if sequence <= self.sequence:
            return True
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((sequence, waiter))
        try:
            async with asyncio.timeout(timeout_seconds):
                await waiter
        except TimeoutError:
            self._waiting = [pair for pair in self._waiting if pair[1] is not waiter]
            return False
        return True

    def _take(self, event: SessionEvent, recorded: Recorded) -> None:
        placed = self.get(event.session) or NOTHING
        if recorded.sequence <= placed.sequence:
            return
        after = _evolved(placed.state, event)
        self._place(event.session, Placed(after, recorded.sequence))
        for watch in self._watches:
            watch(recorded, placed.state, after)

    def _place(self, session: SessionId, placed: Placed) -> None:
        match placed.state:
            case NotStarted():
                pass
            case Ended():
                self._live.pop(session, None)
                self._ended[session] = placed
                if len(self._ended) > ENDED_KEPT:
                    self._ended.popitem(last=False)
            case _:
                self._live[session] = placed


def placed(history: Sequence[Recorded]) -> Placed:
    """The state after a history; illegal events are passed over, as every reader does."""
    state: SessionState = NOT_STARTED
    for recorded in history:
        if isinstance(recorded.message, SessionEvent):
            state = _evolved(state, recorded.message)
    return Placed(state, history[-1].sequence if history else 0)


def _evolved(state: SessionState, event: SessionEvent) -> SessionState:
    try:
        return evolve(state, as_session_event(event))
    except IllegalEventError:
        return state


def as_session_event(event: SessionEvent) -> AnySessionEvent:
    """The event as a member of the union of all session events, which every concrete one is."""
    if type(event) not in CONCRETE:
        raise TypeError(f"{type(event).__name__} is not a concrete event of a session")
    return cast(AnySessionEvent, event)
