"""How far services are behind the log, as their consumers on the broker say. Changes no consumer."""

from __future__ import annotations

import msgspec
import nats.errors
import nats.js.errors

from services._runtime.errors import TransientError
from services._runtime.jetstream import JetStreamLog
from services._runtime.topology import stream_name


class Lag(msgspec.Struct, frozen=True, kw_only=True):
    """One service: messages it has yet to get, has in hand, and got again; `bound` is whether a replica listens now."""

    service: str
    waiting: int
    in_hand: int
    redelivered: int
    bound: bool = False


async def lags(log: JetStreamLog, services: tuple[str, ...]) -> list[Lag]:
    """The lag of each service that has a place in SESSIONS. Raises TransientError where the broker is away."""
    found = []
    for service in services:
        try:
            info = await log.js.consumer_info(stream_name(log.subjects, "SESSIONS"), service)
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
