"""One session's history: its events in order, the state after each, and how an operator names the one he means."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence

import msgspec

from schemas.base import SessionId
from schemas.lifecycle import NOT_STARTED, Ended, IllegalEventError, NotStarted, SessionState, Waiting, evolve
from schemas.session import AnySessionEvent, SessionEvent, StartRequested
from services._runtime.log import Recorded
from services._runtime.view import as_session_event

History = Sequence[Recorded]
"""The recorded events of one session, oldest first."""


class Moment(msgspec.Struct, frozen=True):
    """An event with the states around it; `legal` is False for one that every reader passes over."""

    sequence: int
    event: AnySessionEvent
    before: SessionState
    after: SessionState
    legal: bool


class NoSuchSessionError(Exception):
    """No session, or more than one, is meant by what the operator gave."""


def moments(history: History) -> Iterator[Moment]:
    """The events with the states around them. What this build cannot read is left out."""
    state: SessionState = NOT_STARTED
    for recorded in history:
        if not isinstance(recorded.message, SessionEvent):
            continue
        event = as_session_event(recorded.message)
        try:
            after, legal = evolve(state, event), True
        except IllegalEventError:
            after, legal = state, False
        yield Moment(recorded.sequence, event, state, after, legal)
        state = after


def state_of(history: History) -> SessionState:
    """The state a history leads to."""
    state: SessionState = NOT_STARTED
    for moment in moments(history):
        state = moment.after
    return state


def state_name(state: SessionState) -> str:
    """The state in the words of the documentation."""
    if isinstance(state, Waiting):
        return f"waiting ({state.place_in_queue})"
    return type(state).__name__.lower() if not isinstance(state, NotStarted) else "not started"


def first_event(history: History) -> SessionEvent:
    """The oldest event this build can read. Raises NoSuchSessionError when there is none."""
    for recorded in history:
        if isinstance(recorded.message, SessionEvent):
            return recorded.message
    raise NoSuchSessionError("this build can read nothing of the session; try the newest `farlab`")


def request_of(history: History) -> StartRequested | None:
    """The start that was asked for; None when the log no longer holds the beginning."""
    first = first_event(history)
    return first if isinstance(first, StartRequested) else None


def ended(state: SessionState) -> bool:
    """Whether a session is over."""
    return isinstance(state, Ended)


def find(histories: Sequence[History], wanted: str) -> History:
    """The history meant by a session id, the beginning or end of one, or `user/server` (its newest session).

    Raises NoSuchSessionError, naming what is near.
    """
    by_id: dict[SessionId, History] = {first_event(history).session: history for history in histories}
    part = wanted.lower()
    user, _, server = wanted.partition("/")
    requests = [(request_of(history), history) for history in histories]
    of_user = [
        history for request, history in requests if request and (request.user, request.server_name) == (user, server)
    ]
    if of_user:
        return of_user[-1]
    ids = [each for each in by_id if each.startswith(part) or each.endswith(part)]
    if len(ids) == 1:
        return by_id[ids[0]]
    if ids:
        raise NoSuchSessionError(f"{wanted!r} means {len(ids)} sessions: {', '.join(ids[:5])}; give more of the id")
    raise NoSuchSessionError(f"there is no session {wanted!r}{_near(requests, wanted)}; `farlab sessions` lists them")


def _near(requests: Sequence[tuple[StartRequested | None, History]], wanted: str) -> str:
    user, slash, _ = wanted.partition("/")
    known = {f"{request.user}/{request.server_name}" for request, _ in requests if request}
    if servers := sorted(each for each in known if each.startswith(f"{user}/")):
        return f"; of {user} there are: {', '.join(servers[:5])}"
    names = known if slash else {request.session for request, _ in requests if request} | known
    close = difflib.get_close_matches(wanted if slash else wanted.lower(), sorted(names), 3)
    return f"; did you mean {' or '.join(close)}?" if close else ""
