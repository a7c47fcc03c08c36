"""Questions that services put to each other, answered at once or not at all. Keeps nothing, retries nothing.

A question's subject ends in the name of who asks, and the broker lets each service ask under its own name only:
whoever answers knows who asked. What is secret in an answer is sealed to that service all the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

import nats.errors
import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg

from services._runtime.errors import TransientError
from services._runtime.log import Subscription

_log = structlog.get_logger("farlab.rpc")

Answer = Callable[[str, bytes], Awaitable[bytes]]
"""Answers a question: who asks, and what. Raises to give no answer."""


class Rpc(Protocol):
    """Questions and answers between services."""

    async def ask(self, subject: str, asker: str, question: bytes, *, timeout_seconds: float) -> bytes:
        """The answer. Raises TransientError when there is none in time."""

    async def answer(self, subject: str, service: str, answer: Answer) -> Subscription:
        """Answers questions from now on; of a service's replicas one answers each."""


class NatsRpc:
    """Over NATS request and reply."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def ask(self, subject: str, asker: str, question: bytes, *, timeout_seconds: float) -> bytes:
        """As `Rpc`. A question that may not be asked is not refused by the broker: it gets no answer."""
        try:
            message = await self._client.request(f"{subject}.{asker}", question, timeout=timeout_seconds)
        except (nats.errors.Error, OSError, TimeoutError) as error:
            raise TransientError(f"nobody answers at {subject} ({type(error).__name__})") from None
        return message.data

    async def answer(self, subject: str, service: str, answer: Answer) -> Subscription:
        """As `Rpc`."""
        answering: set[asyncio.Task[None]] = set()

        async def take(message: Msg) -> None:
            task = asyncio.create_task(_answered(message, answer))
            answering.add(task)
            task.add_done_callback(answering.discard)

        taken = await self._client.subscribe(f"{subject}.*", queue=service, cb=take)
        for _ in range(2):  # nats-py writes its ping before what waits to be written: the first may overtake us
            await self._client.flush()
        return _Answering(taken.unsubscribe, answering)


async def _answered(message: Msg, answer: Answer) -> None:
    asker = message.subject.rpartition(".")[2]
    try:
        await message.respond(await answer(asker, message.data))
    except TransientError as error:
        _log.info("a question stays without an answer", asker=asker, reason=error.reason)
    except Exception:
        _log.exception("a question could not be answered", asker=asker)


class _Answering:
    """Answers until it is closed; those in hand are given."""

    def __init__(self, stop: Callable[[], Awaitable[None]], answering: set[asyncio.Task[None]]) -> None:
        self._stop = stop
        self._answering = answering

    async def close(self) -> None:
        await self._stop()
        if self._answering:
            await asyncio.wait(set(self._answering))


class MemoryRpc:
    """The same within one process. Omits permissions: any asker may ask anything."""

    def __init__(self) -> None:
        self._answers: dict[str, Answer] = {}

    async def ask(self, subject: str, asker: str, question: bytes, *, timeout_seconds: float) -> bytes:
        """As `Rpc`."""
        if subject not in self._answers:
            raise TransientError(f"nobody answers at {subject}")
        try:
            async with asyncio.timeout(timeout_seconds):
                return await self._answers[subject](asker, question)
        except TimeoutError:
            raise TransientError(f"nobody answers at {subject} (TimeoutError)") from None

    async def answer(self, subject: str, service: str, answer: Answer) -> Subscription:
        """As `Rpc`; `service` has one replica here."""
        del service
        self._answers[subject] = answer
        return _Forget(self._answers, subject)


class _Forget:
    def __init__(self, answers: dict[str, Answer], subject: str) -> None:
        self._answers = answers
        self._subject = subject

    async def close(self) -> None:
        self._answers.pop(self._subject, None)
