"""An asyncio event loop with virtual time, whose callbacks belong to lives of simulated processes. Does no I/O.

Callbacks that are due run in the order asyncio promises; which is due first follows from the seed, because every answer
of the simulated world takes a time drawn from it. A life that was killed never runs again, not even its `finally`; one
that is frozen runs on when it thaws, as a process does after SIGSTOP and SIGCONT.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import sys
from asyncio import events
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar, copy_context
from math import ceil
from typing import Any


class Life:
    """One life of a simulated process: from its start to its end."""

    __slots__ = ("context", "dead", "frozen", "name", "parked")

    def __init__(self, name: str) -> None:
        self.name = name
        self.dead = False
        self.frozen = False
        self.parked: list[Handle] = []
        self.context = Context()
        self.context.run(OWNER.set, self)


TICKS = 2.0**20
"""Virtual time goes in ticks of about a microsecond."""
OWNER: ContextVar[Life | None] = ContextVar("owner", default=None)
WORLD = Context()
"""The context of what belongs to no process: the broker, the site, the network."""


class Handle:
    """A callback to come."""

    __slots__ = ("_arguments", "_callback", "_cancelled", "_when", "context", "owner")

    def __init__(self, callback: Callable[..., object], arguments: tuple[Any, ...], context: Context, when: float):
        self._callback = callback
        self._arguments = arguments
        self.context = context
        self.owner = context.get(OWNER)
        self._cancelled = False
        self._when = when

    def cancel(self) -> None:
        self._cancelled = True
        self._arguments = ()

    def cancelled(self) -> bool:
        return self._cancelled

    def when(self) -> float:
        return self._when

    def run(self) -> None:
        self.context.run(self._callback, *self._arguments)


class SimTask(asyncio.Task[Any]):
    """A task whose place in a set does not depend on its address, so that a seed replays exactly."""

    number = 0
    owner: Life | None = None

    def __hash__(self) -> int:
        return self.number


class SimLoop(asyncio.AbstractEventLoop):
    """Runs one scenario."""

    def __init__(self, defect: Callable[[str], None]) -> None:
        self.now = 0.0
        self.steps = 0
        self.live_locks = 0
        self._ready: deque[Handle] = deque()
        self._timers: list[tuple[float, int, Handle]] = []
        self._count = 0
        self._tasks: list[SimTask] = []
        self._closed = False
        self._defect = defect

    # --- what asyncio asks of a loop -------------------------------------------------------------------------------

    def time(self) -> float:
        return self.now

    def call_soon(self, callback: Any, *args: Any, context: Context | None = None) -> Any:
        handle = Handle(callback, args, copy_context() if context is None else context, self.now)
        if not self._closed:
            self._ready.append(handle)
        return handle

    def call_later(self, delay: float, callback: Any, *args: Any, context: Context | None = None) -> Any:
        return self.call_at(self.now + delay, callback, *args, context=context)

    def call_at(self, when: float, callback: Any, *args: Any, context: Context | None = None) -> Any:
        when = ceil(when * TICKS) / TICKS  # sums of times stay exact, so that nothing wakes a rounding too early
        handle = Handle(callback, args, copy_context() if context is None else context, when)
        self._count += 1
        if not self._closed:
            heapq.heappush(self._timers, (when, self._count, handle))
        return handle

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(self, coro: Any, *, name: str | None = None, context: Context | None = None) -> Any:
        task = SimTask(coro, loop=self, name=name, context=context)
        self._tasks.append(task)
        task.number = len(self._tasks)
        task.owner = OWNER.get()
        return task

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> Any:
        """No threads here: it is done at once."""
        done = self.create_future()
        done.set_result(func(*args))
        return done

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return not self._closed

    def is_closed(self) -> bool:
        return self._closed

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        if not self._closed:
            self._defect(f"{context.get('message')}: {context.get('exception')!r}")

    # --- what the simulation asks ----------------------------------------------------------------------------------

    def at(self, when: float, callback: Callable[..., object], *arguments: Any) -> Handle:
        """Runs a callback that belongs to no process."""
        handle: Handle = self.call_at(when, callback, *arguments, context=WORLD)
        return handle

    def after(self, seconds: float, callback: Callable[..., object], *arguments: Any) -> Handle:
        """Runs a callback that belongs to no process."""
        return self.at(self.now + seconds, callback, *arguments)

    def begin(self, life: Life, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """A task of a process."""
        task: asyncio.Task[Any] = life.context.run(self.create_task, work)
        return task

    def thaw(self, life: Life) -> None:
        """Everything that came due while the process was frozen comes now."""
        life.frozen = False
        parked, life.parked = life.parked, []
        self._ready.extend(parked)

    def run(self, until: float, done: Callable[[], bool]) -> None:
        """Runs until a time, or until `done` says so between two callbacks."""
        ready, timers = self._ready, self._timers
        events._set_running_loop(self)
        try:
            while True:
                while ready:
                    handle = ready.popleft()
                    if handle._cancelled:
                        continue
                    owner = handle.owner
                    if owner is not None:
                        if owner.dead:
                            continue
                        if owner.frozen:
                            owner.parked.append(handle)
                            continue
                    self.steps += 1
                    handle.run()
                    if done():
                        return
                if not timers or timers[0][0] > until:
                    self.now = until
                    return
                when, _, handle = heapq.heappop(timers)
                if when > self.now:
                    self.now, self.live_locks = when, 0
                self.live_locks += 1
                if self.live_locks > 100_000:
                    self._defect("time stands still: something runs round and round without waiting")
                    return
                ready.append(handle)
        finally:
            events._set_running_loop(None)

    def failed_tasks(self) -> list[str]:
        """What ended tasks that nobody awaited: asyncio would complain when it collects them."""
        return [
            f"a task failed unseen: {task.exception()!r}"
            for task in self._tasks
            if not (task.owner and task.owner.dead)
            and task.done()
            and not task.cancelled()
            and task._log_traceback
            and task.exception() is not None
        ]

    def close(self) -> None:
        """Lets go of every coroutine, whichever its process: none of them runs on."""
        self._closed = True
        hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
        try:
            for task in self._tasks:
                if not task.done():
                    task._log_destroy_pending = False  # type: ignore[attr-defined]
                    coroutine: Any = task.get_coro()
                    with contextlib.suppress(BaseException):
                        coroutine.close()
            self._tasks.clear()
            self._ready.clear()
            self._timers.clear()
        finally:
            sys.unraisablehook = hook
