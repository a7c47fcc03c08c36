"""From a delivery to an answer: decode, hand over, and judge what went wrong. Decides nothing about sessions."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from time import perf_counter

import msgspec
import structlog

from schemas.base import event_name
from schemas.session import SessionEvent
from schemas.subjects import SubjectError, Subjects
from schemas.wire import UndecodableError, UnknownTypeError, decode_session_event
from services._runtime.errors import PermanentError, TransientError
from services._runtime.log import ConflictError, Delivery, Log
from services._runtime.telemetry import HANDLED, HANDLING_SECONDS
from services._runtime.tracing import handling

_log = structlog.get_logger("farlab.delivery")

TRIES = 6
"""How often a message that meets a defect is tried before it becomes a dead letter."""
LONGEST_BACKOFF_SECONDS = 60.0


class Acknowledge(msgspec.Struct, frozen=True):
    """Nothing more to do."""


class Retry(msgspec.Struct, frozen=True):
    """It shall come again."""

    delay_seconds: float


class Bury(msgspec.Struct, frozen=True):
    """It can never be handled: into the dead letters, and the user is told."""

    reason: str


Reaction = Acknowledge | Retry | Bury


class MisaddressedError(UndecodableError):
    """The body says something else than its subject, which is what permissions judge."""


def reaction(error: Exception, attempt: int, jitter: float) -> Reaction:
    """What an error asks for. `attempt` counts from 1, `jitter` lies in [0, 1)."""
    match error:
        case UnknownTypeError():
            return Acknowledge()
        case UndecodableError():
            return Bury(str(error))
        case TransientError(delay_seconds=delay) if delay is not None:
            return Retry(delay * (1 + jitter / 4))
        case TransientError() | ConflictError():
            return Retry(backoff_seconds(attempt, jitter))
        case PermanentError():
            return Bury(str(error))
        case _:
            if attempt < TRIES:
                return Retry(backoff_seconds(attempt, jitter))
            return Bury(f"failed {attempt} times, last with {type(error).__name__}: {error}")


def backoff_seconds(attempt: int, jitter: float) -> float:
    """0.2 s doubled with every attempt up to a minute, three quarters of it certain and the rest by chance."""
    longest = min(0.2 * 2.0 ** min(attempt - 1, 20), LONGEST_BACKOFF_SECONDS)
    return longest * (0.75 + 0.25 * jitter)


Handle = Callable[[SessionEvent, int], Awaitable[None]]
Fail = Callable[[SessionEvent, PermanentError], Awaitable[None]]


class SessionDeliveries:
    """Answers every delivery of the stream SESSIONS exactly once, whatever the handler does."""

    def __init__(
        self, *, service: str, log: Log, subjects: Subjects, handle: Handle, fail: Fail, ack_wait_seconds: float
    ) -> None:
        self._service = service
        self._log = log
        self._subjects = subjects
        self._handle = handle
        self._fail = fail
        self._ack_wait_seconds = ack_wait_seconds

    async def deliver(self, delivery: Delivery) -> None:
        """Handles one delivery and answers it."""
        begun = perf_counter()
        event: SessionEvent | None = None
        outcome = "acknowledged"
        try:
            event = self._decoded(delivery)
            structlog.contextvars.bind_contextvars(
                session=event.session, system=event.system, event_type=type(event).__name__
            )
            with _KeptAlive(delivery, self._ack_wait_seconds / 3), handling(self._service, event):
                await self._handle(event, delivery.sequence)
            await delivery.acknowledge()
        except Exception as error:
            outcome = await self._react(delivery, event, error)
        finally:
            name = type(event).__name__ if event is not None else "undecodable"
            HANDLED.labels(name, outcome).inc()
            HANDLING_SECONDS.labels(name).observe(perf_counter() - begun)
            structlog.contextvars.clear_contextvars()

    def _decoded(self, delivery: Delivery) -> SessionEvent:
        event = decode_session_event(delivery.body)
        try:
            tokens = self._subjects.parse_session(delivery.subject)
        except SubjectError as error:
            raise MisaddressedError(str(error)) from error
        if (tokens.hub, tokens.system, tokens.session, tokens.event) != (
            event.hub,
            event.system,
            event.session,
            event_name(event),
        ):
            raise MisaddressedError(f"the body does not belong to its subject {delivery.subject}")
        return event

    async def _react(self, delivery: Delivery, event: SessionEvent | None, error: Exception) -> str:
        match reaction(error, delivery.attempt, random.random()):  # noqa: S311 - jitter, not a secret
            case Acknowledge():
                _log.warning("skipped", subject=delivery.subject, reason=str(error))
                await delivery.acknowledge()
                return "skipped"
            case Retry(delay_seconds=delay):
                known = isinstance(error, TransientError | ConflictError)
                _log.info("again later", delay_seconds=round(delay, 2), reason=str(error), exc_info=not known)
                await delivery.retry(delay)
                return "retried"
            case Bury(reason=reason):
                await self._bury(delivery, event, reason, error)
                return "buried"

    async def _bury(self, delivery: Delivery, event: SessionEvent | None, reason: str, error: Exception) -> None:
        _log.error("dead letter", subject=delivery.subject, reason=reason, exc_info=error)
        name = event_name(event) if event is not None else ""
        try:
            await self._log.dead_letter(
                self._subjects.dead_letter(self._service, name),
                delivery.body,
                {"Farlab-Reason": _header(reason), "Farlab-Subject": _header(delivery.subject)},
            )
            if event is not None:
                await self._fail(event, _told(error))
            await delivery.acknowledge()
        except Exception as trouble:
            _log.warning("not buried yet", reason=str(trouble), exc_info=not isinstance(trouble, TransientError))
            await delivery.retry(backoff_seconds(delivery.attempt, 0.5))


def _header(text: str) -> str:
    """The text as the value of a header: one line of printable ASCII, so that no body can write headers of its own."""
    printable = text[:1000].encode("ascii", "backslashreplace").decode()
    return "".join(character if character.isprintable() else " " for character in printable)


def _told(error: Exception) -> PermanentError:
    """What the user is told of an error; the details of a defect stay in the log."""
    if isinstance(error, PermanentError):
        return error
    return PermanentError(
        "internal-error",
        "Farlab met a defect of its own while it handled this session.",
        "Try again; if it happens again, give your support the session's id.",
    )


class _KeptAlive:
    """Tells the log now and then that the work goes on, so that a slow site does not cause a second handler.

    A call of the loop's and no task until there is something to tell: nearly all work is over long before.
    """

    def __init__(self, delivery: Delivery, every_seconds: float) -> None:
        self._delivery = delivery
        self._every_seconds = every_seconds
        self._telling: asyncio.Task[None] | None = None

    def __enter__(self) -> None:
        self._next = asyncio.get_running_loop().call_later(self._every_seconds, self._tell)

    def __exit__(self, *_: object) -> None:
        self._next.cancel()

    def _tell(self) -> None:
        self._telling = asyncio.ensure_future(self._delivery.working())
        self.__enter__()
