"""The phases of a start: from which event to which each lasts, and who is at work in it. Pure."""

from __future__ import annotations

from datetime import datetime

import msgspec

from schemas.session import (
    JobCreated,
    JobStatusChanged,
    JobSubmitted,
    Running,
    ServerListening,
    ServerReady,
    SessionEnded,
    SessionEvent,
    StartAdmitted,
    StartRejected,
    StartRequested,
    StopRequested,
    TunnelReady,
)
from services.operator_cli.story.history import History, moments

PHASES = (
    ("admission", "accounts"),
    ("job creation", "launcher"),
    ("submission", "launcher"),
    ("queue", "site"),
    ("server start", "job"),
    ("tunnel", "tunneler"),
    ("arrival", "hub"),
)
"""In order, with who is at work."""


class Phase(msgspec.Struct, frozen=True):
    """One phase of a session; `seconds` is None while it lasts."""

    name: str
    by: str
    seconds: float | None


def phases(history: History) -> list[Phase]:
    """The phases a session has entered, and at the end how long it ran and took to stop."""
    marks = _marks(history)
    found: list[Phase] = []
    for (name, by), begin, end in zip(PHASES, _BORDERS, _BORDERS[1:], strict=False):
        if begin not in marks:
            break
        found.append(Phase(name, by, _between(marks, begin, end)))
        if end not in marks:
            return _closed(found, marks)
    if "ready" in marks:
        found.append(Phase("use", "user", _between(marks, "ready", "stop" if "stop" in marks else "end")))
    if "stop" in marks:
        found.append(Phase("stop", "launcher", _between(marks, "stop", "end")))
    return found


def start_seconds(history: History) -> float | None:
    """How long the start took until the user was in; None when he never was."""
    return _between(_marks(history), "requested", "ready")


_BORDERS = ("requested", "admitted", "created", "submitted", "running", "listening", "tunnel", "ready")


def _closed(found: list[Phase], marks: dict[str, datetime]) -> list[Phase]:
    """The last phase of a start that was cut off lasts until the stop or the end, and then there is only the stop."""
    last = found[-1]
    begun = marks[_BORDERS[len(found) - 1]]
    cut = marks.get("stop") or marks.get("end")
    if cut is None:
        return found
    found[-1] = Phase(last.name, last.by, max((cut - begun).total_seconds(), 0.0))
    return [*found, Phase("stop", "launcher", _between(marks, "stop", "end"))] if "stop" in marks else found


def _between(marks: dict[str, datetime], begin: str, end: str) -> float | None:
    return max((marks[end] - marks[begin]).total_seconds(), 0.0) if begin in marks and end in marks else None


def _marks(history: History) -> dict[str, datetime]:
    """When each border was first crossed."""
    marks: dict[str, datetime] = {}
    for moment in moments(history):
        name = _border(moment.event)
        if moment.legal and name:
            marks.setdefault(name, moment.event.at)
    if "listening" in marks:
        # A site may say only after the server does that the job runs, or never.
        marks["running"] = min(marks.get("running", marks["listening"]), marks["listening"])
    return marks


def _border(event: SessionEvent) -> str:
    match event:
        case StartRequested():
            return "requested"
        case StartAdmitted() | StartRejected():
            return "admitted"
        case JobCreated():
            return "created"
        case JobSubmitted():
            return "submitted"
        case JobStatusChanged(job_status=Running()):
            return "running"
        case ServerListening():
            return "listening"
        case TunnelReady():
            return "tunnel"
        case ServerReady():
            return "ready"
        case StopRequested():
            return "stop"
        case SessionEnded():
            return "end"
        case _:
            return ""
