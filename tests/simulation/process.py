"""A simulated process: started, killed, frozen, and what it sends over the network. Knows no service."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

from services._runtime.errors import TransientError
from tests.simulation.loop import Life

if TYPE_CHECKING:
    from tests.simulation.world import World

Answer = TypeVar("Answer")
Place = Literal["broker", "site"]
Moment = Literal["before", "sent", "answered"]
"""When a crash strikes: before a request leaves, when it has left, when its answer arrives."""


class LostAnswerError(Exception):
    """No answer came in time: whether the request was carried out is not known."""


class Running(Protocol):
    """What runs in a process."""

    async def start(self) -> None: ...

    async def close(self) -> None: ...


Boot = Callable[["Process"], Running]


class Process:
    """One process of the installation over all its lives; a supervisor starts it again when it ends."""

    def __init__(self, world: World, name: str, boot: Boot) -> None:
        self.world = world
        self.name = name
        self.skew_seconds = 0.0
        self.cut: set[Place] = set()
        self.life: Life | None = None
        self.running: Running | None = None
        self.crash: tuple[int, Moment] | None = None
        self._boot = boot

    @property
    def alive(self) -> bool:
        return self.life is not None and not self.life.dead

    @property
    def awake(self) -> bool:
        return self.life is not None and not self.life.dead and not self.life.frozen

    def now(self) -> float:
        """This process's own clock."""
        return self.world.loop.now + self.skew_seconds

    def start(self) -> None:
        """A new life, with nothing but what the world keeps."""
        if self.alive or self.world.over:
            return
        self.world.say(self.name, "starts")
        self.life = Life(self.name)
        self.crash = None
        self.world.loop.begin(self.life, self._live(self.life))

    async def _live(self, life: Life) -> None:
        try:
            self.running = self._boot(self)
            await self.running.start()
        except TransientError as error:
            self.world.say(self.name, f"ends: {error.reason}")
            self._gone(life)
            self.world.loop.after(1.0, self.start)

    def kill(self, down_seconds: float) -> None:
        """SIGKILL, and the supervisor's next start."""
        if self.life is None or self.life.dead:
            return
        self.world.say(self.name, "KILLED")
        self._gone(self.life)
        self.world.loop.after(down_seconds, self.start)

    def _gone(self, life: Life) -> None:
        life.dead = True
        self.running = None
        self.world.died(life)

    def restart(self) -> None:
        """SIGTERM, and the supervisor's next start."""
        if self.life is None or self.life.dead or self.running is None:
            return
        self.world.say(self.name, "stops")
        life = self.life
        self.world.loop.begin(life, self._end(life, self.running))

    async def _end(self, life: Life, running: Running) -> None:
        try:
            async with asyncio.timeout(15.0):
                await running.close()
        except TimeoutError:
            self.world.say(self.name, "did not finish in time")
        self._gone(life)
        self.world.loop.after(0.2, self.start)

    def freeze(self, seconds: float) -> None:
        """SIGSTOP, and SIGCONT after that time."""
        if self.life is not None and not self.life.dead and not self.life.frozen:
            self.world.say(self.name, "FROZEN")
            self.life.frozen = True
            self.world.loop.after(seconds, self._thaw, self.life)

    def _thaw(self, life: Life) -> None:
        if not life.dead:
            self.world.say(self.name, "thaws")
            self.world.loop.thaw(life)

    # --- the network -----------------------------------------------------------------------------------------------

    def struck(self, moment: Moment) -> bool:
        """Whether an armed crash strikes at this moment of this request."""
        if self.crash is None or self.crash[1] != moment:
            return False
        left = self.crash[0] - 1
        self.crash = (left, moment)
        if left > 0:
            return False
        self.crash = None
        self.kill(self.world.random.choice((0.1, 1.0, 4.0)))
        return True

    async def ask(self, place: Place, operation: Callable[[], Answer], timeout_seconds: float) -> Answer:
        """A request and its answer, either of which may be lost or late. Raises LostAnswerError."""
        world, life = self.world, self.life
        loop = world.loop
        answer: asyncio.Future[Answer] = loop.create_future()
        if self.struck("before"):
            return await answer
        if world.lost(self, place):
            loop.call_later(timeout_seconds, _missing, answer)
            return await answer

        def arrive() -> None:
            if world.is_down(place):
                loop.after(timeout_seconds, _missing, answer)
                return
            result: Any = None
            trouble: Exception | None = None
            try:
                result = operation()
            except Exception as error:
                trouble = error
            if life is not None and life.dead:
                return
            seconds = world.latency(place)
            if world.lost(self, place) or seconds > timeout_seconds:
                loop.after(timeout_seconds, _missing, answer)
            else:
                loop.after(seconds, hand_over, result, trouble)

        def hand_over(result: Answer, trouble: Exception | None) -> None:
            if life is not None and life.dead:
                return
            if self.struck("answered"):
                return
            if not answer.done():
                if trouble is not None:
                    answer.set_exception(trouble)
                else:
                    answer.set_result(result)

        loop.after(world.latency(place), arrive)
        self.struck("sent")
        return await answer

    def tell(self, place: Place, operation: Callable[[], object]) -> None:
        """A message without an answer, which may be lost."""
        if self.struck("before") or self.world.lost(self, place):
            return

        def arrive() -> None:
            if not self.world.is_down(place):
                operation()

        self.world.loop.after(self.world.latency(place), arrive)
        self.struck("sent")

    def begin(self, work: Coroutine[Any, Any, Any]) -> None:
        """A task in this process, if it lives."""
        if self.life is not None and not self.life.dead:
            self.world.loop.begin(self.life, work)
        else:
            work.close()


def _missing(answer: asyncio.Future[Any]) -> None:
    if not answer.done():
        answer.set_exception(LostAnswerError())
