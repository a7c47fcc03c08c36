"""Starts that wait for their site: told to their user once for each reason, given up at their deadline."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from datetime import datetime

import structlog

from schemas.base import SessionId
from schemas.session import ProgressReported, SessionEvent, StartRequested
from services._launching.ends import DEADLINE_PASSED
from services._runtime.errors import PermanentError, TransientError
from services._runtime.tasks import end

_log = structlog.get_logger("farlab.launching")

TOLD_KEPT = 10_000


class WaitingStarts:
    """The starts of one launcher that wait. `record` appends a word to a session's log."""

    def __init__(
        self, record: Callable[[SessionEvent], Awaitable[object]], now: Callable[[], datetime], waits_for: str
    ) -> None:
        """`waits_for` says in the user's words what is waited for."""
        self._record = record
        self._now = now
        self._waits_for = waits_for
        self._told: dict[SessionId, str] = {}
        self._saying: set[asyncio.Task[None]] = set()

    @contextlib.contextmanager
    def until_deadline(self, request: StartRequested, title: str) -> Iterator[None]:
        """Lets a step of a start wait for its site, and says so, until the start's deadline.

        Raises TransientError before it, PermanentError after it.
        """
        try:
            yield
        except TransientError as error:
            if self._now() >= request.deadline:
                reason = f"{title} did not take the server in time: {error.reason}"
                raise PermanentError(DEADLINE_PASSED, reason, "Try again later, or choose another system.") from error
            self._tell(request, error.reason)
            raise

    async def close(self) -> None:
        """Says nothing more."""
        await end(self._saying)

    def _tell(self, request: StartRequested, reason: str) -> None:
        """Says in the session's log why its start waits. Later, because the session is in a handler's hands now."""
        if self._told.get(request.session) == reason:
            return
        if len(self._told) >= TOLD_KEPT:
            self._told.clear()
        self._told[request.session] = reason
        task = asyncio.create_task(self._say(request, f"Waiting for the {self._waits_for}: {reason}"[:1024]))
        self._saying.add(task)
        task.add_done_callback(self._saying.discard)

    async def _say(self, at: StartRequested, message: str) -> None:
        said = ProgressReported(hub=at.hub, system=at.system, session=at.session, percent=0, message=message)
        try:
            await self._record(said)
        except (TransientError, PermanentError) as error:
            _log.info("not said", session=at.session, reason=error.reason)
