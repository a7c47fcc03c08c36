"""The one handler of all services: read, decide, append, perform, append, acknowledge. Knows no service.

The incoming message is the outbox: it is acknowledged after every append it caused, and doing it again is a no-op.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Generic, TypeVar

import structlog

from schemas.base import SessionId
from schemas.lifecycle import IllegalEventError, NotStarted, SessionState, evolve
from schemas.session import AnySessionEvent, SessionEvent, StartRequested
from schemas.subjects import Subjects
from services._runtime.decider import Act, Decide, Emit, GiveUp, Steps
from services._runtime.errors import PermanentError
from services._runtime.identity import Stamp
from services._runtime.log import ConflictError, Log, Recorded
from services._runtime.telemetry import EVENTS_APPENDED, EVENTS_REFUSED
from services._runtime.tracing import note_append, performing
from services._runtime.view import NOTHING, Placed, SessionView, as_session_event, placed

Command = TypeVar("Command")
_log = structlog.get_logger("farlab.consumer")

FOLLOWER_BEHIND_SECONDS = 2.0
"""How long a handler waits for the follower before it reads the history itself."""
MOST_STEPS = 200
"""More steps than this for one message are a defect of a decider, not work."""


class SessionConsumer(Generic[Command]):
    """Turns events into steps and steps into facts, one session at a time, many sessions at once."""

    def __init__(
        self,
        *,
        log: Log,
        subjects: Subjects,
        view: SessionView,
        stamp: Stamp,
        decide: Decide[Command],
        perform: Act[Command],
        give_up: GiveUp[Command],
    ) -> None:
        self._log = log
        self._subjects = subjects
        self._view = view
        self._stamp = stamp
        self._decide = decide
        self._perform = perform
        self._give_up = give_up
        self._locks: dict[SessionId, tuple[asyncio.Lock, int]] = {}

    async def handle(self, event: SessionEvent, sequence: int) -> None:
        """Reacts to an event of the log. Returns when all it caused is in the log.

        Raises TransientError when it should come again; other errors are for the delivery table to judge.
        """
        async with self._alone(event.session):
            here = await self._load(event, sequence)
            await self._react(here, as_session_event(event))

    async def record(self, event: SessionEvent) -> bool:
        """Appends a fact from the world (no message caused it) and reacts to it. False: the state refuses it."""
        async with self._alone(event.session):
            here, appended = await self._append(await self._known(event.session), event, None)
            if appended:
                await self._react(here, as_session_event(event))
            return appended

    async def nudge(self, session: SessionId) -> None:
        """Reacts to the state alone: what a reconciler does for a session that should have moved on."""
        async with self._alone(session):
            await self._react(await self._known(session), None)

    async def follow_order(self, session: SessionId, order: Callable[[SessionState], Steps[Command]]) -> None:
        """Carries out what an operator asks of a session, by the log itself and not by a view that may be behind."""
        async with self._alone(session):
            here = await self._read(session)
            if not isinstance(here.state, NotStarted):
                await self._run(here, None, order(here.state))

    async def fail(self, session: SessionId, error: PermanentError) -> None:
        """Says in the log that the session can never get further, and why."""
        async with self._alone(session):
            here = await self._read(session)
            await self._run(here, None, self._give_up(here.state, error))

    @contextlib.asynccontextmanager
    async def _alone(self, session: SessionId) -> AsyncIterator[None]:
        lock, users = self._locks.get(session) or (asyncio.Lock(), 0)
        self._locks[session] = (lock, users + 1)
        try:
            async with lock:
                yield
        finally:
            lock, users = self._locks.pop(session)
            if users > 1:
                self._locks[session] = (lock, users - 1)

    async def _load(self, event: SessionEvent, sequence: int) -> Placed:
        if isinstance(event, StartRequested):
            self._view.learn(Recorded(sequence, event))
        elif not await self._view.reached(sequence, FOLLOWER_BEHIND_SECONDS):
            return await self._read(event.session)
        return self._view.get(event.session) or await self._read(event.session)

    async def _known(self, session: SessionId) -> Placed:
        return self._view.get(session) or await self._read(session)

    async def _read(self, session: SessionId) -> Placed:
        return placed(await self._log.history("SESSIONS", self._subjects.session(session)))

    async def _react(self, here: Placed, event: AnySessionEvent | None) -> None:
        if not isinstance(here.state, NotStarted):
            await self._run(here, event, self._decide(here.state, event))

    async def _run(self, here: Placed, trigger: AnySessionEvent | None, first: Steps[Command]) -> None:
        """Carries steps out in order; what is appended is decided on at once, without a round through the broker.

        A decision holds for the state it was made on alone: where the session moved on, it is decided anew. A fact that
        the state refuses is shown to the decider all the same: what it tells of exists and is not wanted.
        """
        steps = deque(first)
        for _ in range(MOST_STEPS):
            if not steps:
                return
            step = steps.popleft()
            if isinstance(step, Emit):
                here, appended = await self._append(here, step.event, trigger, decided=True)
                steps = deque(self._decide(here.state, as_session_event(step.event) if appended else trigger))
                continue
            try:
                with performing(step.command):
                    facts = await self._perform(step.command)
            except PermanentError as error:
                _log.warning("given up", command=type(step.command).__name__, code=error.code, reason=error.reason)
                steps = deque(self._give_up(here.state, error))
                continue
            for fact in facts:
                here, appended = await self._append(here, fact, trigger)
                steps.extend(self._decide(here.state, as_session_event(fact)))
        raise RuntimeError(f"{MOST_STEPS} steps for one message and no end: the decider does not settle")

    async def _append(
        self, here: Placed, event: SessionEvent, cause: SessionEvent | None, *, decided: bool = False
    ) -> tuple[Placed, bool]:
        """Where the session is afterwards, and whether the event is in it: a state may refuse it, reloaded or not.

        What was `decided` on a state that is not the last any more is not appended; a fact is, where it is legal.
        """
        scope = self._subjects.session(event.session)
        cause_id = cause.id if cause is not None and cause.id else None
        while True:
            stamped = self._stamp(event, after=here.sequence, cause=cause_id)
            try:
                after = evolve(here.state, as_session_event(stamped))
            except IllegalEventError as refusal:
                EVENTS_REFUSED.labels(type(event).__name__).inc()
                _log.info("refused", session=event.session, refusal=str(refusal))
                return here, False
            subject = self._subjects.session_event(stamped)
            try:
                sequence = await self._log.append("SESSIONS", subject, stamped, scope=scope, after=here.sequence)
            except ConflictError as conflict:
                for recorded in conflict.history:
                    self._view.learn(recorded)
                here = placed(conflict.history)
                if decided:
                    return here, False
                continue
            EVENTS_APPENDED.labels(type(event).__name__).inc()
            note_append(stamped)
            if (self._view.get(event.session) or NOTHING).sequence == here.sequence:
                self._view.learn(Recorded(sequence, stamped))
            # else the follower is behind, and a view that took this event now would never take those before it
            return Placed(after, sequence), True
