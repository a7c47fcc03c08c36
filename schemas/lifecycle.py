"""The life of a session as a pure state machine: which event may follow which. Does nothing and knows no clock.

A state is one of a union of frozen structs, and a field is there exactly when it is known::

    NotStarted ─ Requested ─┬─ Waiting ─┬─ Admitted ─ Created ─ Submitted ─ Listening ─ Reachable ─ Ready ⇄ Interrupted
                            ├───────────┴─ Rejected                             └────────┘
                            └ stop: Withdrawn      Cancelling   Stopping ...                      all end in ─ Ended
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from schemas.session import (
    AnySessionEvent,
    JobCreated,
    JobStatus,
    JobStatusChanged,
    JobSubmitted,
    ProgressReported,
    Queued,
    ServerListening,
    ServerReady,
    SessionEnded,
    StartAdmitted,
    StartRejected,
    StartRequested,
    StartWaiting,
    StopRequested,
    TunnelLost,
    TunnelReady,
)


class NotStarted(msgspec.Struct, frozen=True):
    """The log knows nothing of this session."""


class Requested(msgspec.Struct, frozen=True):
    """A start was asked for and nobody has judged it yet."""

    request: StartRequested


class Waiting(msgspec.Struct, frozen=True):
    """The start stands in the queue of the accounts service."""

    request: StartRequested
    place_in_queue: int


class Rejected(msgspec.Struct, frozen=True):
    """The start was refused; only its end is still to be written."""

    request: StartRequested
    rejection: StartRejected


class Withdrawn(msgspec.Struct, frozen=True):
    """A stop came before admission: there is nothing at any site, and accounts end it."""

    request: StartRequested
    stop: StopRequested


class Admitted(msgspec.Struct, frozen=True):
    """The launcher shall make the job."""

    request: StartRequested
    admission: StartAdmitted


class Cancelling(msgspec.Struct, frozen=True):
    """A stop came after admission and before the log knew of a job; the site may have one all the same."""

    request: StartRequested
    admission: StartAdmitted
    stop: StopRequested


class Created(msgspec.Struct, frozen=True):
    """The job exists, inert."""

    request: StartRequested
    admission: StartAdmitted
    job: str


class Submitted(msgspec.Struct, frozen=True):
    """The scheduler has the job."""

    request: StartRequested
    admission: StartAdmitted
    job: str
    job_status: JobStatus


class Listening(msgspec.Struct, frozen=True):
    """The server accepts connections on its node, and no tunnel leads there (any more).

    `generation` is that of the last tunnel, 0 when there was none.
    """

    request: StartRequested
    admission: StartAdmitted
    job: str
    job_status: JobStatus
    server: ServerListening
    generation: int


class Reachable(msgspec.Struct, frozen=True):
    """A tunnel leads to the server; JupyterHub has not reached it yet."""

    request: StartRequested
    admission: StartAdmitted
    job: str
    job_status: JobStatus
    server: ServerListening
    tunnel: TunnelReady


class Ready(msgspec.Struct, frozen=True):
    """The user is in."""

    request: StartRequested
    admission: StartAdmitted
    job: str
    job_status: JobStatus
    server: ServerListening
    tunnel: TunnelReady


class Interrupted(msgspec.Struct, frozen=True):
    """The user was in, and the tunnel of `generation` is lost."""

    request: StartRequested
    admission: StartAdmitted
    job: str
    job_status: JobStatus
    server: ServerListening
    generation: int


class Stopping(msgspec.Struct, frozen=True):
    """The job shall go; the launcher tries until it is gone."""

    request: StartRequested
    admission: StartAdmitted
    job: str
    stop: StopRequested


class Ended(msgspec.Struct, frozen=True):
    """The session is over, for good. `job` is what may need clearing away at the site; empty: there was none."""

    request: StartRequested
    end: SessionEnded
    admission: StartAdmitted | None
    job: str


SessionState = (
    NotStarted
    | Requested
    | Waiting
    | Rejected
    | Withdrawn
    | Admitted
    | Cancelling
    | Created
    | Submitted
    | Listening
    | Reachable
    | Ready
    | Interrupted
    | Stopping
    | Ended
)
WithJob = Created | Submitted | Listening | Reachable | Ready | Interrupted | Stopping
WithStatus = Submitted | Listening | Reachable | Ready | Interrupted
WithServer = Listening | Reachable | Ready | Interrupted
WithTunnel = Reachable | Ready

NOT_STARTED = NotStarted()


class IllegalEventError(Exception):
    """The event may not follow this state: it is refused at append."""

    def __init__(self, state: SessionState, event: AnySessionEvent) -> None:
        self.state = state
        self.event = event
        super().__init__(f"{type(event).__name__} may not follow {type(state).__name__}")


def evolve(state: SessionState, event: AnySessionEvent) -> SessionState:
    """The state after `event`. Raises IllegalEventError when the event may not follow."""
    following = _following(state, event)
    if following is None:
        raise IllegalEventError(state, event)
    return following


def fold(events: Iterable[AnySessionEvent]) -> SessionState:
    """The state after `events`, from nothing. An illegal event in a log is passed over, by every reader alike."""
    state: SessionState = NOT_STARTED
    for event in events:
        state = _following(state, event) or state
    return state


def _following(state: SessionState, event: AnySessionEvent) -> SessionState | None:
    """The state after the event, or None where it is illegal."""
    match event:
        case StartRequested():
            return Requested(event) if isinstance(state, NotStarted) else None
        case StartWaiting():
            return Waiting(state.request, event.place_in_queue) if isinstance(state, Requested | Waiting) else None
        case StartAdmitted():
            return Admitted(state.request, event) if isinstance(state, Requested | Waiting) else None
        case StartRejected():
            return Rejected(state.request, event) if isinstance(state, Requested | Waiting) else None
        case JobCreated():
            return _after_job_created(state, event)
        case JobSubmitted():
            if isinstance(state, Created):
                return Submitted(state.request, state.admission, state.job, Queued())
            return state if isinstance(state, Stopping) else None
        case JobStatusChanged():
            if isinstance(state, WithStatus):
                return msgspec.structs.replace(state, job_status=event.job_status)
            return state if isinstance(state, Stopping) else None
        case ProgressReported():
            return state if isinstance(state, WithStatus | Admitted | Created | Stopping) else None
        case ServerListening():
            if isinstance(state, Submitted):
                return Listening(state.request, state.admission, state.job, state.job_status, event, 0)
            return None
        case TunnelReady() | TunnelLost() | ServerReady():
            return _after_tunnel(state, event)
        case StopRequested():
            return _after_stop(state, event)
        case SessionEnded():
            return _after_end(state, event)


def _after_job_created(state: SessionState, event: JobCreated) -> SessionState | None:
    match state:
        case Admitted():
            return Created(state.request, state.admission, event.job)
        case Cancelling():
            return Stopping(state.request, state.admission, event.job, state.stop)
        case _:
            return None


def _after_tunnel(state: SessionState, event: TunnelReady | TunnelLost | ServerReady) -> SessionState | None:
    match event, state:
        case TunnelReady(), Listening() if event.generation > state.generation:
            return _with_tunnel(Reachable, state, event)
        case TunnelReady(), Interrupted() if event.generation > state.generation:
            return _with_tunnel(Ready, state, event)
        case TunnelReady(), Reachable() | Ready() if event.generation > state.tunnel.generation:
            return msgspec.structs.replace(state, tunnel=event)
        case TunnelLost(), Reachable() if event.generation == state.tunnel.generation:
            return _without_tunnel(Listening, state)
        case TunnelLost(), Ready() if event.generation == state.tunnel.generation:
            return _without_tunnel(Interrupted, state)
        case TunnelLost(), Listening() | Interrupted() if event.generation == state.generation:
            return state
        case ServerReady(), Reachable():
            return _with_tunnel(Ready, state, state.tunnel)
        case _:
            return None


def _with_tunnel(
    then: type[Reachable] | type[Ready], state: Listening | Reachable | Interrupted, tunnel: TunnelReady
) -> SessionState:
    return then(state.request, state.admission, state.job, state.job_status, state.server, tunnel)


def _without_tunnel(then: type[Listening] | type[Interrupted], state: Reachable | Ready) -> SessionState:
    generation = state.tunnel.generation
    return then(state.request, state.admission, state.job, state.job_status, state.server, generation)


def _after_stop(state: SessionState, event: StopRequested) -> SessionState | None:
    match state:
        case Requested() | Waiting():
            return Withdrawn(state.request, event)
        case Admitted():
            return Cancelling(state.request, state.admission, event)
        case Created() | Submitted() | Listening() | Reachable() | Ready() | Interrupted():
            return Stopping(state.request, state.admission, state.job, event)
        case NotStarted() | Rejected() | Withdrawn() | Cancelling() | Stopping() | Ended():
            return None


def _after_end(state: SessionState, event: SessionEnded) -> SessionState | None:
    match state:
        case NotStarted() | Ended():
            return None
        case Requested() | Waiting() | Rejected() | Withdrawn():
            return Ended(state.request, event, None, "")
        case Admitted() | Cancelling():
            return Ended(state.request, event, state.admission, "")
        case Created() | Submitted() | Listening() | Reachable() | Ready() | Interrupted() | Stopping():
            return Ended(state.request, event, state.admission, state.job)
