"""What protects a site from us and us from a site: a limiter of requests and a breaker. Sends nothing."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

Clock = Callable[[], float]

FAILURES_TO_OPEN = 5
SHORTEST_OPEN_SECONDS = 5.0
LONGEST_OPEN_SECONDS = 60.0


class Limiter:
    """At most so many requests a second and so many at once, first come, first served."""

    def __init__(self, *, per_second: float, at_once: int, clock: Clock) -> None:
        self._gap_seconds = 1.0 / per_second
        self._burst_seconds = min(1.0, at_once / per_second)
        self._clock = clock
        self._slots = asyncio.Semaphore(at_once)
        self._next_at = 0.0

    @contextlib.asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Waits for its turn; while the context lasts, one of the concurrent requests is taken."""
        async with self._slots:
            delay = self._book()
            if delay > 0:
                await asyncio.sleep(delay)
            yield

    def _book(self) -> float:
        """Seconds to wait for the next free place in time; an idle limiter lets a short burst through."""
        now = self._clock()
        self._next_at = max(self._next_at, now - self._burst_seconds) + self._gap_seconds
        return self._next_at - now


class Breaker:
    """Refuses at once what a dead site would only answer by a time-out; lets a probe through now and then."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._failures = 0
        self._open_seconds = SHORTEST_OPEN_SECONDS
        self._open_until = 0.0
        self._probing = False
        self.reason = ""

    @property
    def is_open(self) -> bool:
        """Whether the site counts as dead."""
        return self._failures >= FAILURES_TO_OPEN

    def closed_seconds(self) -> float:
        """0 when a request may go; else how long none will."""
        if not self.is_open:
            return 0.0
        if self._probing:
            return 1.0
        return max(0.0, self._open_until - self._clock())

    def begin(self) -> None:
        """A request goes; where the site counts as dead it is the one probe."""
        self._probing = self.is_open

    def succeeded(self) -> None:
        """The site answered, whatever it said."""
        self._failures = 0
        self._open_seconds = SHORTEST_OPEN_SECONDS
        self._probing = False

    def failed(self, reason: str) -> None:
        """The site did not answer."""
        self._failures += 1
        self.reason = reason
        if self._probing:
            self._open_seconds = min(self._open_seconds * 2, LONGEST_OPEN_SECONDS)
        if self.is_open:
            self._open_until = self._clock() + self._open_seconds
        self._probing = False

    def abandoned(self) -> None:
        """The request was cancelled before the site could answer: it says nothing of the site."""
        self._probing = False
