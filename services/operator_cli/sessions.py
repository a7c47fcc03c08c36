"""Reads sessions from the log for the operator: lists, timelines, events. Changes nothing but by a stop request."""

from __future__ import annotations

import getpass
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

import msgspec

from schemas.base import SessionId, message_type
from schemas.lifecycle import NOT_STARTED, Ended, IllegalEventError, NotStarted, SessionState, Waiting, evolve
from schemas.session import SessionEvent, StartRequested, StopRequested
from schemas.subjects import Subjects
from services._runtime.identity import Stamp
from services._runtime.log import ConflictError, Log, Recorded
from services._runtime.view import as_session_event

ENVELOPE = ("type", "id", "at", "source", "cause", "hub", "system", "session")


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One session in a list."""

    session: SessionId
    user: str
    server_name: str
    system: str
    state: str
    since: datetime
    started: datetime
    outcome: str = ""
    reason: str = ""


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One event in a timeline; `after_seconds` since the event before."""

    sequence: int
    type: str
    at: datetime
    after_seconds: float
    source: str
    state: str
    id: str
    cause: str | None
    details: dict[str, Any]


class NoSuchSessionError(Exception):
    """No session, or more than one, is meant by what the operator gave."""


async def read_sessions(log: Log, subjects: Subjects, *, system: str = "*", hub: str = "*") -> list[list[Recorded]]:
    """The histories of all sessions in the log, oldest first."""
    histories: dict[SessionId, list[Recorded]] = {}

    def take(recorded: Recorded) -> None:
        if isinstance(recorded.message, SessionEvent):
            histories.setdefault(recorded.message.session, []).append(recorded)

    following = await log.follow("SESSIONS", [subjects.sessions(hub=hub, system=system)], take)
    await following.close()
    return list(histories.values())


def row(history: Sequence[Recorded]) -> Row | None:
    """A session's row in a list; None when its beginning is not in the log any more."""
    first, last = history[0].message, history[-1].message
    if not isinstance(first, StartRequested):
        return None
    state = _state(history)
    ended = state.end if isinstance(state, Ended) else None
    return Row(
        session=first.session,
        user=first.user,
        server_name=first.server_name,
        system=first.system,
        state=state_name(state),
        since=last.at,
        started=first.at,
        outcome=ended.outcome if ended else "",
        reason=ended.reason if ended else "",
    )


def state_name(state: SessionState) -> str:
    """The state in the words of the documentation."""
    if isinstance(state, Waiting):
        return f"waiting ({state.place_in_queue})"
    return type(state).__name__.lower() if not isinstance(state, NotStarted) else "not started"


def timeline(history: Iterable[Recorded]) -> list[Step]:
    """The events of one session with the time each took to come."""
    steps: list[Step] = []
    before: datetime | None = None
    state: SessionState = NOT_STARTED
    for recorded in history:
        event = recorded.message
        if not isinstance(event, SessionEvent):
            continue
        try:
            state = evolve(state, as_session_event(event))
            name = state_name(state)
        except IllegalEventError:
            name = "(ignored)"
        fields = msgspec.to_builtins(event)
        steps.append(
            Step(
                sequence=recorded.sequence,
                type=message_type(event),
                at=event.at,
                after_seconds=(event.at - before).total_seconds() if before else 0.0,
                source=event.source,
                state=name,
                id=event.id,
                cause=event.cause,
                details={key: value for key, value in fields.items() if key not in ENVELOPE},
            )
        )
        before = event.at
    return steps


def find(histories: Sequence[Sequence[Recorded]], wanted: str) -> Sequence[Recorded]:
    """The history meant by a session id, the beginning or end of one, or `user/server` (its newest session).

    Raises NoSuchSessionError, naming what is near.
    """
    by_id = {_first(history).session: history for history in histories}
    part = wanted.lower()
    user, _, server = wanted.partition("/")
    of_user = [each for each in histories if _is_of(_first(each), user, server)]
    if of_user:
        return of_user[-1]
    ids = [each for each in by_id if each.startswith(part) or each.endswith(part)]
    if len(ids) == 1:
        return by_id[ids[0]]
    if ids:
        raise NoSuchSessionError(f"{wanted!r} means {len(ids)} sessions: {', '.join(ids[:5])}; give more of the id")
    raise NoSuchSessionError(f"there is no session {wanted!r}; `farlab sessions` lists them")


async def request_stop(log: Log, subjects: Subjects, stamp: Stamp, session: SessionId, reason: str) -> str:
    """Asks for a session's end in the log. Returns what became of it, in words."""
    scope = subjects.session(session)
    history = await log.history("SESSIONS", scope)
    while True:
        first = _first(history)
        state = _state(history)
        stop = StopRequested(
            hub=first.hub, system=first.system, session=session, by=f"operator {getpass.getuser()}", reason=reason
        )
        try:
            evolve(state, stop)
        except IllegalEventError:
            return "it has ended already" if isinstance(state, Ended) else "it is being stopped already"
        after = history[-1].sequence
        stamped = stamp(stop, after=after, cause=None)
        try:
            await log.append("SESSIONS", subjects.session_event(stamped), stamped, scope=scope, after=after)
        except ConflictError as conflict:
            history = list(conflict.history)
            continue
        return "its stop is requested"


def _first(history: Sequence[Recorded]) -> SessionEvent:
    for recorded in history:
        if isinstance(recorded.message, SessionEvent):
            return recorded.message
    raise NoSuchSessionError("this build can read nothing of the session; try the newest `farlab`")


def _is_of(event: SessionEvent, user: str, server: str) -> bool:
    return isinstance(event, StartRequested) and event.user == user and event.server_name == server


def _state(history: Iterable[Recorded]) -> SessionState:
    state: SessionState = NOT_STARTED
    for recorded in history:
        if isinstance(recorded.message, SessionEvent):
            try:
                state = evolve(state, as_session_event(recorded.message))
            except IllegalEventError:
                continue
    return state
