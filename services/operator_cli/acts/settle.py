"""`farlab adopt` and `end`: an operator's word where no reconciliation can decide. Services obey."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from schemas.acts import Act, AdoptionRequested, EndRequested, SessionAct
from schemas.lifecycle import (
    Admitted,
    Cancelling,
    Ended,
    NotStarted,
    Rejected,
    Requested,
    SessionState,
    Waiting,
    Withdrawn,
)
from schemas.session import HpcPlace, StartRequested
from services._runtime.configuration import ConfigurationError
from services._runtime.log import Recorded
from services.operator_cli.acts.append import Operator
from services.operator_cli.acts.consent import operator

OBEYED_SECONDS = 10.0
"""How long the command waits to see an act obeyed."""


def adoption(state: SessionState, job: str, reason: str) -> AdoptionRequested:
    """The act that gives a session its job. Raises ConfigurationError where the session cannot take one. Pure."""
    if not isinstance(state, Admitted | Cancelling):
        raise ConfigurationError(
            f"a session that is {_name(state)} takes no job; only one that was admitted and has none can adopt one"
        )
    request = state.request
    return AdoptionRequested(
        service=_launcher(request),
        hub=request.hub,
        system=request.system,
        session=request.session,
        job=job,
        by=operator(),
        reason=reason,
    )


def ending(state: SessionState, reason: str) -> EndRequested:
    """The act that ends a session on the operator's word. Raises ConfigurationError where it has ended. Pure."""
    if isinstance(state, NotStarted | Ended):
        raise ConfigurationError(f"the session is {_name(state)}; there is nothing to end")
    request = state.request
    before_admission = isinstance(state, Requested | Waiting | Rejected | Withdrawn)
    return EndRequested(
        service="accounts" if before_admission else _launcher(request),
        hub=request.hub,
        system=request.system,
        session=request.session,
        by=operator(),
        reason=reason,
    )


async def ask(hand: Operator, act: SessionAct) -> str:
    """Puts the act into the log and waits until its service has obeyed. Returns what became of it, in words."""
    scope = hand.subjects.session(act.session)
    asked = await hand.act(act)
    loop = asyncio.get_running_loop()
    until = loop.time() + OBEYED_SECONDS
    while loop.time() < until:
        history = await hand.log.history("SESSIONS", scope)
        if (said := _obeyed(history, asked)) is not None:
            return said
        await asyncio.sleep(0.1)
    return f"asked; {act.service} has not obeyed within {OBEYED_SECONDS:.0f} s, and will once it runs"


def _obeyed(history: Sequence[Recorded], act: Act) -> str | None:
    for recorded in history:
        if recorded.message.cause == act.id:
            return f"done: {type(recorded.message).__name__} is event {recorded.sequence} of the log"
    return None


def _launcher(request: StartRequested) -> str:
    return "hpc-launcher" if isinstance(request.place, HpcPlace) else "cloud-launcher"


def _name(state: SessionState) -> str:
    return type(state).__name__.lower() if not isinstance(state, NotStarted) else "unknown"
