"""How far services are behind the log, as their consumers on the broker say. Changes no consumer."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec
import nats.errors
import nats.js.errors

from services._runtime.errors import TransientError
from services._runtime.jetstream import JetStreamLog
from services._runtime.log import Stream
from services._runtime.telemetry import CONSUMER_IN_HAND, CONSUMER_PENDING, CONSUMER_REDELIVERED
from services._runtime.topology import stream_name

METER_SECONDS = 10.0
"""How often a service asks how far it is behind: as often as monitoring looks."""
CONSUMED: tuple[Stream, ...] = ("SESSIONS", "ACTS")
"""The streams services have a place in."""
UNKNOWN = float("nan")
"""What a gauge says while the broker does not."""


class Lag(msgspec.Struct, frozen=True, kw_only=True):
    """One service: messages it has yet to get, has in hand, and got again; `bound` is whether a replica listens now."""

    service: str
    waiting: int
    in_hand: int
    redelivered: int
    bound: bool = False


async def lags(log: JetStreamLog, services: Sequence[str], stream: Stream = "SESSIONS") -> list[Lag]:
    """The lag of each service that has a place in a stream. Raises TransientError where the broker is away."""
    found = []
    for service in services:
        try:
            info = await log.js.consumer_info(stream_name(log.subjects, stream), service)
        except nats.js.errors.NotFoundError:
            continue
        except (nats.errors.Error, TimeoutError, ConnectionError) as error:
            raise TransientError(f"the broker did not tell how far {service} is: {error!r}") from error
        found.append(
            Lag(
                service=service,
                waiting=info.num_pending or 0,
                in_hand=info.num_ack_pending or 0,
                redelivered=info.num_redelivered or 0,
                bound=bool(info.push_bound),
            )
        )
    return found


async def meter(log: JetStreamLog, service: str) -> None:
    """Keeps the service's own lag in its metrics, for ever. Never raises: a broker that is away leaves them unknown."""
    while True:
        for stream in CONSUMED:
            try:
                for lag in await lags(log, [service], stream):
                    _tell(stream, lag.waiting, lag.in_hand, lag.redelivered)
            except TransientError:
                _tell(stream, UNKNOWN, UNKNOWN, UNKNOWN)
        await asyncio.sleep(METER_SECONDS)


def _tell(stream: Stream, waiting: float, in_hand: float, redelivered: float) -> None:
    CONSUMER_PENDING.labels(stream).set(waiting)
    CONSUMER_IN_HAND.labels(stream).set(in_hand)
    CONSUMER_REDELIVERED.labels(stream).set(redelivered)
