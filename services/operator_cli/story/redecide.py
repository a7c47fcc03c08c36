"""What today's deciders would do with a recorded session, held against what was recorded. Pure; performs nothing.

A decider's own words (`Emit`) must be in the record. What it would have done in the world (`Perform`) is compared by
its facts: what the service said with the same cause must be a fact that such a command has, or what the world refused
for good, which says so (`refusal`); both are given, not decided. What a service said without a cause, such as a status
a site reported, is given too.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any

import msgspec

from schemas.base import Message, event_name
from schemas.lifecycle import IllegalEventError, SessionState, evolve
from schemas.session import AnySessionEvent, HpcPlace, SessionEnded, SessionEvent, StopRequested
from services._runtime.decider import Decide, Emit, Perform
from services._runtime.view import as_session_event
from services.operator_cli.story.history import History, Moment, moments, request_of, state_name

MOST_STEPS = 200
ENVELOPE = ("id", "at", "source", "cause")


class Decider(msgspec.Struct, frozen=True):
    """A service's decider: `consumes` are the event types it is handed, `facts` what comes of each of its commands."""

    decide: Decide[Any]
    consumes: Sequence[type[SessionEvent]]
    facts: Mapping[type, tuple[type[SessionEvent], ...]]


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """Where today's decider and the record part: at the event `sequence`, in the state the service then knew."""

    service: str
    sequence: int
    event: str
    state: str
    recorded: str
    today: str


def decider_of(module: ModuleType) -> Decider:
    """A service's `decide` module as a decider."""
    return Decider(module.decide, module.CONSUMES, module.FACTS)


def differences(history: History, deciders: Mapping[str, Decider]) -> list[Difference]:
    """Every difference in a history. `deciders` are by service, as events name it in their source."""
    told = list(moments(history))
    deciders = concerned(deciders, history)
    return [
        difference
        for index, moment in enumerate(told)
        for service, decider in deciders.items()
        if isinstance(moment.event, tuple(decider.consumes))
        for difference in _compared(service, decider, told, index)
    ]


def concerned(deciders: Mapping[str, Decider], history: History) -> Mapping[str, Decider]:
    """The deciders that a session is for: of the launchers, the one of its kind of place."""
    request = request_of(history)
    if request is None:
        return deciders
    other = "cloud-launcher" if isinstance(request.place, HpcPlace) else "hpc-launcher"
    return {service: decider for service, decider in deciders.items() if service != other}


def _compared(service: str, decider: Decider, told: Sequence[Moment], index: int) -> Iterator[Difference]:
    """The first difference in what one event led to, if there is one."""
    trigger = told[index]
    caused = deque(each for each in told[index + 1 :] if _said_by(each.event, service, trigger.event))
    # The service decided on what it knew right before it first spoke; where it did not, right after the event.
    state = caused[0].before if caused else trigger.after
    steps = deque(decider.decide(state, trigger.event))
    performed = False
    for _ in range(MOST_STEPS):
        if not steps:
            if not caused or not performed:
                break
            state = caused.popleft().after
            steps.extend(decider.decide(state, trigger.event))
            continue
        step = steps.popleft()
        if isinstance(step, Perform):
            performed = True
            facts = decider.facts[type(step.command)]
            if caused and facts:
                fact = caused.popleft()
                if not isinstance(fact.event, facts) and not _refused(fact.event):
                    yield _difference(service, trigger, state, fact.event, step)
                    return
                state = fact.after
                steps.extend(decider.decide(state, fact.event))
            continue
        if caused and _same(caused[0].event, step.event):
            fact = caused.popleft()
            state = fact.after
            steps = deque(decider.decide(state, fact.event))
            continue
        if not caused and index + 1 < len(told) and not _possible(told[index + 1].after, step):
            return  # the session had moved on before the service could say it
        yield _difference(service, trigger, state, caused[0].event if caused else None, step)
        return
    if caused:
        yield _difference(service, trigger, state, caused[0].event, None)


def _said_by(event: AnySessionEvent, service: str, trigger: AnySessionEvent) -> bool:
    return event.source.rpartition("/")[2] == service and bool(event.cause) and event.cause == trigger.id


def _refused(event: AnySessionEvent) -> bool:
    """Whether a service said that the world had refused for good: that is given, as a fact is."""
    match event:
        case SessionEnded(refusal=refusal) | StopRequested(refusal=refusal):
            return bool(refusal)
        case _:
            return False


def _same(recorded: Message, today: Message) -> bool:
    return type(recorded) is type(today) and _content(recorded) == _content(today)


def _content(event: Message) -> dict[str, Any]:
    return {name: value for name, value in msgspec.to_builtins(event).items() if name not in ENVELOPE}


def _possible(state: SessionState, step: Emit) -> bool:
    try:
        evolve(state, as_session_event(step.event))
    except IllegalEventError:
        return False
    return True


def _difference(
    service: str, trigger: Moment, state: SessionState, recorded: Message | None, today: Emit | Perform[Any] | None
) -> Difference:
    return Difference(
        service=service,
        sequence=trigger.sequence,
        event=event_name(trigger.event),
        state=state_name(state),
        recorded=_words(recorded),
        today=_planned(today),
    )


def _planned(step: Emit | Perform[Any] | None) -> str:
    if isinstance(step, Perform):
        return f"perform {type(step.command).__name__}"
    return _words(step.event if step is not None else None)


def _words(event: Message | None) -> str:
    if event is None:
        return "nothing"
    ours = {name: value for name, value in _content(event).items() if name not in ("type", "hub", "system", "session")}
    shown = " ".join(f"{name}={value!r}" for name, value in ours.items() if value not in ("", None, {}, []))
    return f"{event_name(event)} {shown}".strip()
