"""What the launcher must remember of a session beyond its state, read from the same events. Asks nobody."""

from __future__ import annotations

from datetime import datetime

from schemas.base import SessionId
from schemas.lifecycle import SessionState
from schemas.session import (
    CloudPlace,
    JobStatusChanged,
    ProgressReported,
    Running,
    ServerListening,
    SessionEnded,
    StartRequested,
    Use,
)
from services._runtime.clouds import CloudSystem
from services._runtime.log import Recorded

WARNING = "Warning: "
"""How a word begins that announces an end."""


class Chronicle:
    """Since when servers run and listen, and what ends were announced. Give `observe` to the view before it follows."""

    def __init__(self) -> None:
        self._running: dict[SessionId, datetime] = {}
        self._listening: dict[SessionId, datetime] = {}
        self._warned: dict[SessionId, tuple[str, datetime]] = {}

    def observe(self, recorded: Recorded, _before: SessionState, _after: SessionState) -> None:
        """Takes an event that entered the view."""
        match recorded.message:
            case JobStatusChanged(session=session, job_status=Running(), at=at):
                self._running.setdefault(session, at)
            case ServerListening(session=session, at=at):
                self._running.setdefault(session, at)
                self._listening[session] = at
            case ProgressReported(session=session, message=message, at=at) if message.startswith(WARNING):
                self._warned[session] = (message, at)
            case SessionEnded(session=session):
                for known in (self._running, self._listening, self._warned):
                    known.pop(session, None)
            case _:
                pass

    def running_since(self, session: SessionId) -> datetime | None:
        """When the pod of a live session was first known to run."""
        return self._running.get(session)

    def listening_since(self, session: SessionId) -> datetime | None:
        """When its server was first reached."""
        return self._listening.get(session)

    def warned(self, session: SessionId) -> tuple[str, datetime] | None:
        """The last announcement of an end, and when it was made."""
        return self._warned.get(session)


def used(cloud: CloudSystem, request: StartRequested, since: datetime | None, until: datetime) -> Use:
    """What a server that ran since then used; nothing when it never ran."""
    place = request.place
    flavour = cloud.flavours.get(place.flavour) if isinstance(place, CloudPlace) else None
    if since is None or until <= since or flavour is None:
        return Use()
    seconds = (until - since).total_seconds()
    return Use(core_seconds=round(flavour.cpu * seconds), gpu_seconds=round(flavour.gpus * seconds))
