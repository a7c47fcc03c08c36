"""How a service obeys operators' acts on sessions: each delivered until it was obeyed. Judges no session itself."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable

import structlog

from schemas.acts import SessionAct
from schemas.subjects import Subjects
from schemas.wire import decode
from services._runtime.delivery import Acknowledge, Bury, MisaddressedError, Retry, reaction
from services._runtime.log import Delivery

_log = structlog.get_logger("farlab.acts")

Obeyed = Callable[[SessionAct], Awaitable[None]]


class ActDeliveries:
    """Answers every delivery of the stream ACTS exactly once. An act that can never be obeyed is logged and let go."""

    def __init__(self, subjects: Subjects, obey: Obeyed) -> None:
        self._subjects = subjects
        self._obey = obey

    async def deliver(self, delivery: Delivery) -> None:
        """Obeys one act and answers its delivery."""
        try:
            message = decode(delivery.body)
            if not isinstance(message, SessionAct) or self._subjects.act(message) != delivery.subject:
                raise MisaddressedError(f"the body does not belong to its subject {delivery.subject}")
            await self._obey(message)
            await delivery.acknowledge()
        except Exception as error:
            match reaction(error, delivery.attempt, random.random()):  # noqa: S311 - jitter, not a secret
                case Retry(delay_seconds=delay):
                    _log.info("again later", subject=delivery.subject, reason=str(error))
                    await delivery.retry(delay)
                case Acknowledge() | Bury():
                    _log.error("not obeyed", subject=delivery.subject, reason=str(error), exc_info=error)
                    await delivery.acknowledge()
