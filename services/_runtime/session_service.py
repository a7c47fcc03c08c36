"""The wiring every service of sessions shares: a view that follows, a consumer that reacts, deliveries that answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, TypeVar

from schemas.acts import DeadLetterRetried, SessionAct
from schemas.lifecycle import SessionState
from schemas.session import SessionEvent
from schemas.subjects import Subjects
from services._runtime.acts import ActDeliveries
from services._runtime.consumer import SessionConsumer
from services._runtime.decider import Act, Decide, GiveUp, Obey, Steps
from services._runtime.delivery import SessionDeliveries
from services._runtime.errors import PermanentError
from services._runtime.identity import Stamp
from services._runtime.log import Log, Subscription
from services._runtime.telemetry import SESSIONS_LIVE
from services._runtime.view import SessionView

Command = TypeVar("Command")

ACK_WAIT_SECONDS = 10.0
"""How long a message stays with a replica that died before another gets it."""


class SessionService(Generic[Command]):
    """One service's part in the life of sessions.

    It follows every event of the hubs and systems it serves, so that states are in memory, and is handed the event
    types its decider `consumes`.
    """

    def __init__(
        self,
        *,
        service: str,
        log: Log,
        subjects: Subjects,
        stamp: Stamp,
        decide: Decide[Command],
        perform: Act[Command],
        give_up: GiveUp[Command],
        consumes: Sequence[type[SessionEvent]],
        systems: Sequence[str] = ("*",),
        hubs: Sequence[str] = ("*",),
        obey: Obey[Command] | None = None,
    ) -> None:
        """Without `obey`, the one thing an operator may ask is to decide a dead letter's session anew."""
        self.view = SessionView()
        self.consumer: SessionConsumer[Command] = SessionConsumer(
            log=log,
            subjects=subjects,
            view=self.view,
            stamp=stamp,
            decide=decide,
            perform=perform,
            give_up=give_up,
        )
        self._service = service
        self._log = log
        self._decide = decide
        self._obey = obey or self._decide_anew
        self._obeyed = [subjects.session_acts(service, system) for system in systems]
        self._acts = ActDeliveries(subjects, self._follow_order)
        self._deliveries = SessionDeliveries(
            service=service,
            log=log,
            subjects=subjects,
            handle=self.consumer.handle,
            fail=self._fail,
            ack_wait_seconds=ACK_WAIT_SECONDS,
        )
        places = [(hub, system) for hub in hubs for system in systems]
        self._followed = [subjects.sessions(hub=hub, system=system) for hub, system in places]
        self._consumed = [
            subjects.sessions(hub=hub, system=system, event=event) for event in consumes for hub, system in places
        ]
        self._subscriptions: list[Subscription] = []

    async def start(self) -> None:
        """Reads the log to its end, then takes messages."""
        self._subscriptions.append(await self.view.follow(self._log, self._followed))
        SESSIONS_LIVE.set_function(lambda: len(self.view))
        self._subscriptions.append(
            await self._log.consume(
                self._service,
                "SESSIONS",
                self._consumed,
                self._deliveries.deliver,
                ack_wait_seconds=ACK_WAIT_SECONDS,
            )
        )

        self._subscriptions.append(
            await self._log.consume(
                self._service, "ACTS", self._obeyed, self._acts.deliver, ack_wait_seconds=ACK_WAIT_SECONDS
            )
        )

    async def close(self) -> None:
        """Takes no new message, finishes or hands back what is in hand, stops following."""
        while self._subscriptions:
            await self._subscriptions.pop().close()

    async def _follow_order(self, act: SessionAct) -> None:
        await self.consumer.follow_order(act.session, lambda state: self._obey(state, act))

    def _decide_anew(self, state: SessionState, act: SessionAct) -> Steps[Command]:
        return self._decide(state, None) if isinstance(act, DeadLetterRetried) else []

    async def _fail(self, event: SessionEvent, error: PermanentError) -> None:
        await self.consumer.fail(event.session, error)
