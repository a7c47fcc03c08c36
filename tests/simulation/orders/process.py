"""One replica of a service, its real parts driven by hand, and the messages it has in hand. Chooses nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from schemas.base import SessionId, UserName
from schemas.session import SessionEvent
from services._runtime.consumer import SessionConsumer
from services._runtime.log import Stream
from services._runtime.view import SessionView
from services.hpc_launcher.chronicle import Chronicle
from services.hpc_launcher.observe import Watched
from tests.simulation import parts
from tests.simulation.broker import SimLog, Stored
from tests.simulation.loop import Life
from tests.simulation.process import LostAnswerError

if TYPE_CHECKING:
    from tests.simulation.orders.world import World

Answer = TypeVar("Answer")
USERS = ("ada", "ben")


class Process:
    """One replica of a service over its lives."""

    def __init__(self, world: World, name: str, boot: Callable[[Any], Any] | None) -> None:
        self.world = world
        self.name = name
        self.skew_seconds = 0.0
        self._boot = boot
        self.start()

    def start(self) -> None:
        """A new life, which has read the log to its end."""
        self.life = Life(self.name)
        self._positions: dict[Stream, int] = {}
        self.watched: dict[SessionId, Watched] = {}
        self.looking: set[SessionId] = set()
        self.app = self._boot(self) if self._boot is not None else None
        if self.app is None:
            self.view = SessionView()
            self.consumer: SessionConsumer[Any] = SessionConsumer(
                log=SimLog(self),  # type: ignore[arg-type]
                subjects=parts.SUBJECTS,
                view=self.view,
                stamp=parts.stamp(self, "hub-bridge"),  # type: ignore[arg-type]
                decide=lambda state, event: [],
                perform=_nothing,
                give_up=lambda state, error: [],
            )
        else:
            self.view = self.app.sessions.view
            self.consumer = self.app.sessions.consumer
            self.view.reached = self._reached  # type: ignore[method-assign]
        if self.name.startswith("accounts"):
            book = self.app._book
            book.records = {UserName(user): book.record_now(UserName(user)) for user in self.world.users}
        if self.name.startswith("tunneler"):
            self.view.watch(self.app._on_event)
        self.chronicle = Chronicle()
        self.view.watch(self.chronicle.observe)
        while self.follow():
            pass

    async def _reached(self, sequence: int, timeout_seconds: float) -> bool:
        return sequence <= self.view.sequence

    def follow(self) -> bool:
        """The next event of one of the streams it follows comes. False: there is none in any."""
        streams = self.world.broker.streams
        behind = [each for each in self._follows() if self._positions.get(each, 0) < len(streams[each])]
        if not behind:
            return False
        stream = self.world.random.choice(behind)
        position = self._positions.get(stream, 0)
        self._positions[stream] = position + 1
        self.world.turns._whose = self.life
        recorded = streams[stream][position].recorded
        match stream:
            case "SESSIONS":
                self.view.observe(recorded)
            case "QUOTAS":
                self.app.ledger.take(recorded)
            case "ACTS":
                self.app._take_limit(recorded)
            case _:
                self.app._take_system(recorded)
        return True

    def _follows(self) -> tuple[Stream, ...]:
        return ("SESSIONS", "QUOTAS", "ACTS", "SYSTEMS") if self.name.startswith("accounts") else ("SESSIONS",)

    # --- the network, as the simulation's parts ask for it -----------------------------------------------------------

    def now(self) -> float:
        """Everybody's clock."""
        return self.world.turns.now

    async def ask(self, place: str, operation: Callable[[], Answer], timeout_seconds: float) -> Answer:
        """A request and its answer, either of which may be lost. Raises LostAnswerError."""
        del timeout_seconds
        await _turn()
        if place == "site" and self.world.site_is_silent():
            raise LostAnswerError
        if self.world.loses():
            raise LostAnswerError
        answer = operation()
        await _turn()
        if self.world.loses():
            raise LostAnswerError
        return answer

    def tell(self, place: str, operation: Callable[[], object]) -> None:
        """A message without an answer, which may be lost."""
        del place
        if not self.world.loses():
            operation()


class _Turn:
    def __await__(self):  # type: ignore[no-untyped-def]
        yield None


def _turn() -> _Turn:
    return _Turn()


async def _nothing(_command: object) -> Sequence[SessionEvent]:
    return []


class Delivery:
    """See `log.Delivery`. What is not answered comes again when its process is gone, or by chance while it is not."""

    def __init__(self, world: World, service: str, process: Process, stored: Stored, attempt: int) -> None:
        self.subject, self.body, self.sequence, self.attempt = (
            stored.subject,
            stored.body,
            stored.recorded.sequence,
            attempt,
        )
        self.life = process.life
        self.again = (service, stored, attempt + 1)
        self._world = world
        self._process = process

    async def acknowledge(self) -> None:
        self._process.tell("broker", self._done)

    def _done(self) -> None:
        if self in self._world.in_hand:
            self._world.in_hand.remove(self)

    async def retry(self, delay_seconds: float) -> None:
        del delay_seconds
        self._done()
        self._world.pending.append(self.again)

    async def working(self) -> None:
        return
