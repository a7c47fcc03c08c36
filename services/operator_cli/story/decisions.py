"""Every decision the deciders of this build make on a recorded session, in words that compare line by line. Pure.

A record holds what came of the decisions of its day, and `redecide` says where today's part from it. Two builds that
are shown the same events can be compared at every step, also where nothing came of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from schemas.base import event_name
from services._runtime.decider import Emit, Perform
from services.operator_cli.story.history import History, first_event, moments, state_name
from services.operator_cli.story.redecide import Decider, concerned

KNOWN = ("request", "admission", "stop", "server")
"""Fields of a command that repeat what the state holds."""
ENVELOPE = ("type", "id", "at", "source", "cause", "hub", "system", "session")


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """What a service's decider says after an event: `steps` in words, none where it would do nothing."""

    session: str
    sequence: int
    event: str
    state: str
    service: str
    steps: list[str]


def decisions(history: History, deciders: Mapping[str, Decider]) -> list[Decision]:
    """The decisions on each event a service is handed or says itself, in the state after it."""
    session, deciders = first_event(history).session, concerned(deciders, history)
    return [
        Decision(
            session=session,
            sequence=moment.sequence,
            event=event_name(moment.event),
            state=state_name(moment.after),
            service=service,
            steps=_words(decider.decide(moment.after, moment.event)),
        )
        for moment in moments(history)
        for service, decider in deciders.items()
        if isinstance(moment.event, tuple(decider.consumes)) or moment.event.source.rpartition("/")[2] == service
    ]


def line(decision: Decision) -> str:
    """One decision in one line."""
    said = "; ".join(decision.steps) or "nothing"
    return f"{decision.session} {decision.sequence} {decision.event} -> {decision.state} | {decision.service}: {said}"


def _words(steps: Sequence[Emit | Perform[Any]]) -> list[str]:
    return [
        f"emit {event_name(step.event)}{_fields(step.event, ENVELOPE)}"
        if isinstance(step, Emit)
        else f"perform {type(step.command).__name__}{_fields(step.command, KNOWN)}"
        for step in steps
    ]


def _fields(struct: msgspec.Struct, left_out: Sequence[str]) -> str:
    told = {name: value for name, value in msgspec.to_builtins(struct).items() if name not in left_out}
    return "".join(f" {name}={value!r}" for name, value in told.items() if not _empty(value))


def _empty(value: Any) -> bool:
    """Whether a value says nothing: what is absent, and structs of nothing but that."""
    if isinstance(value, dict):
        return all(_empty(each) for each in value.values())
    return not value and value is not False
