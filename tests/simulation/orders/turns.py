"""Coroutines taken in turns by chance: whoever is not waiting may be next, at every await. No time passes by itself.

The simulation's loop runs what is due in the order asyncio promises; here every order is possible that any loops on any
machines could produce.
"""

from __future__ import annotations

import asyncio
import sys
from asyncio import events
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from random import Random
from typing import Any

from tests.simulation.loop import Life


class Strand:
    """One coroutine of one life of a process. Stands in for its task where the product makes one."""

    def __init__(self, life: Life, work: Coroutine[Any, Any, Any]) -> None:
        self.life = life
        self.work = work
        self._waits_for: asyncio.Future[Any] | None = None
        self._callbacks: list[Callable[[Any], object]] = []

    def may_go_on(self) -> bool:
        """Whether nothing but its turn keeps it from going on."""
        return self._waits_for is None or self._waits_for.done()

    def go_on(self) -> bool:
        """Runs to the next await. False: it has come to its end. Raises what ended it."""
        try:
            self._waits_for = self.work.send(None)
        except StopIteration:
            for callback in self._callbacks:
                callback(self)
            return False
        return True

    def add_done_callback(self, callback: Callable[[Any], object]) -> None:
        self._callbacks.append(callback)

    def cancelled(self) -> bool:
        return False

    def exception(self) -> None:
        return None


class Timer:
    """Something that happens when its time has come, or earlier than anybody expected."""

    __slots__ = ("cancelled", "happen", "life")

    def __init__(self, happen: Callable[[], object], life: Life | None) -> None:
        self.happen = happen
        self.life = life
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class Turns(asyncio.AbstractEventLoop):
    """What the product finds when it asks asyncio for the loop, and what takes the turns."""

    def __init__(self, random: Random) -> None:
        self.now = 0.0
        self.steps = 0
        self.strands: list[Strand] = []
        self.timers: list[Timer] = []
        self._random = random
        self._whose: Life | None = None
        self._buried: list[Strand] = []

    # --- what asyncio asks of a loop -------------------------------------------------------------------------------

    def time(self) -> float:
        return self.now

    def get_debug(self) -> bool:
        return False

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(self, coro: Any, *, name: str | None = None, context: Any = None) -> Any:
        assert self._whose is not None
        return self.begin(self._whose, coro)

    def call_soon(self, callback: Any, *args: Any, context: Any = None) -> Any:
        return self.call_later(0.0, callback, *args)

    def call_later(self, delay: float, callback: Any, *args: Any, context: Any = None) -> Any:
        timer = Timer(lambda: callback(*args), self._whose)
        self.timers.append(timer)
        return timer

    # --- what the world asks ---------------------------------------------------------------------------------------

    def after(self, seconds: float, callback: Callable[..., object], *arguments: Any) -> Timer:
        """Something of the world that happens at some time; how soon is as open as everything else."""
        timer = Timer(lambda: callback(*arguments), None)
        self.timers.append(timer)
        return timer

    def begin(self, life: Life, work: Coroutine[Any, Any, Any]) -> Strand:
        """A coroutine of a process joins."""
        strand = Strand(life, work)
        self.strands.append(strand)
        return strand

    @contextmanager
    def taken(self) -> Iterator[None]:
        """While turns are taken, this is the running loop."""
        events._set_running_loop(self)
        try:
            yield
        finally:
            events._set_running_loop(None)

    def turn(self) -> bool:
        """One strand goes on to its next await. False: nobody can."""
        strands = self.strands
        count = len(strands)
        first = int(self._random.random() * count) if count else 0
        for offset in range(count):
            strand = strands[(first + offset) % count]
            if strand.may_go_on():
                self.steps += 1
                self._whose = strand.life
                if not strand.go_on() and strand in strands:
                    strands.remove(strand)
                return True
        return False

    def ring(self) -> bool:
        """One timer's time has come. False: there is none."""
        while self.timers:
            timer = self.timers.pop(int(self._random.random() * len(self.timers)))
            if timer.cancelled or (timer.life is not None and timer.life.dead):
                continue
            self._whose = timer.life
            timer.happen()
            return True
        return False

    def bury(self, life: Life) -> None:
        """A process is gone: what it was doing never goes on, not even its `finally`."""
        self._buried += [strand for strand in self.strands if strand.life is life]
        self.strands = [strand for strand in self.strands if strand.life is not life]

    def close(self) -> None:
        """Lets go of every coroutine: none of them runs on."""
        hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
        try:
            for strand in (*self._buried, *self.strands):
                with suppress(BaseException):
                    strand.work.close()
            self._buried.clear()
            self.strands.clear()
        finally:
            sys.unraisablehook = hook
