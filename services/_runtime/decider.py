"""What a decision is made of: steps as data. Carries nothing out.

A service is three pure-typed functions: `decide` (pure), `perform` (the only one that touches the world) and `give_up`
(pure: what to say when something can never work).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

import msgspec

from schemas.acts import SessionAct
from schemas.lifecycle import SessionState
from schemas.session import AnySessionEvent, SessionEvent
from services._runtime.errors import PermanentError

Command = TypeVar("Command")


class Emit(msgspec.Struct, frozen=True):
    """Append this event."""

    event: SessionEvent


class Perform(msgspec.Struct, Generic[Command], frozen=True):
    """Carry out this command, and append the facts that come of it."""

    command: Command


Steps = Sequence[Emit | Perform[Command]]

Decide = Callable[[SessionState, AnySessionEvent | None], Sequence[Emit | Perform[Command]]]
"""The steps for a state and the event that led to it.

Without an event it is a nudge: a reconciler asks what the state alone demands. An event that is not in the state
(`evolve` refused it) is a stray fact: something exists that the log does not want.
"""

Act = Callable[[Command], Awaitable[Sequence[SessionEvent]]]
"""Carries out a command, idempotently by its key, and returns the facts that came of it, oldest first.

Raises TransientError or PermanentError; anything else counts as a defect.
"""

Obey = Callable[[SessionState, SessionAct], Sequence[Emit | Perform[Command]]]
"""The steps for what an operator asks of a session. An act that no longer applies asks for nothing."""

GiveUp = Callable[[SessionState, PermanentError], Sequence[Emit | Perform[Command]]]
"""The steps that tell the user why it can never work."""
