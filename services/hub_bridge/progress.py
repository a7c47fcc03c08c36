"""What a session's events say to the person who waits: one message an event. Pure; escapes whatever others wrote."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any
from urllib.parse import urlencode

from markupsafe import Markup, escape

from schemas.base import event_name
from schemas.session import (
    AnySessionEvent,
    Configuring,
    JobCreated,
    JobStatusChanged,
    JobSubmitted,
    LogTail,
    ProgressReported,
    Queued,
    Running,
    ServerListening,
    ServerReady,
    SessionEnded,
    StartAdmitted,
    StartRejected,
    StartRequested,
    StartWaiting,
    StepUp,
    StopRequested,
    TunnelLost,
    TunnelReady,
    Unknown,
)

JOB_BEGINS, JOB_LISTENS = 40, 80
"""Between these the job's own progress is shown."""

Message = dict[str, Any]
"""What JupyterHub sends to the page: `progress` in percent, `message` as plain text, `html_message` for more, and of
our own the event's name and time."""


SignInAgain = Callable[[SessionEnded], str]
"""The address where a better sign-in leads back to the same choice, where that would help; else nothing."""


def nowhere(_: SessionEnded) -> str:
    """Where users do not sign in through us, no page helps."""
    return ""


def step_up_url(page: str, wanted: StepUp, back: str) -> str:
    """The address that asks the provider for what is wanted, and leads back."""
    asked = {"acr_values": " ".join(wanted.levels), "max_age": str(wanted.max_age_seconds or "")}
    query = {name: value for name, value in asked.items() if value} or {"again": "1"}
    return f"{page}?{urlencode({**query, 'next': back})}"


def message(event: AnySessionEvent, title: Callable[[str], str] = str, again: SignInAgain = nowhere) -> Message:
    """The message of an event; `title` gives a system's name as people know it. `message` is plain text."""
    percent, text = _said(event, title)
    said: Message = {
        "progress": percent,
        "message": text,
        "event": event_name(event),
        "at": event.at.isoformat(timespec="milliseconds"),
    }
    if isinstance(event, SessionEnded):
        said["failed"] = True
        said["html_message"] = str(failure_html(event, again(event)))
    return said


async def messages(
    story: AsyncIterator[AnySessionEvent], title: Callable[[str], str] = str, again: SignInAgain = nowhere
) -> AsyncIterator[Message]:
    """The messages of a session's events as they come; the progress never goes back."""
    highest = 0
    async for event in story:
        said = message(event, title, again)
        highest = said["progress"] = max(highest, said["progress"])
        yield said


def _said(event: AnySessionEvent, title: Callable[[str], str]) -> tuple[int, str]:
    match event:
        case StartRequested():
            return 5, f"Asked for a server on {title(event.system)}."
        case StartWaiting(place_in_queue=place, reason=reason):
            return 6, f"Waiting for its turn, place {place}: {reason}"
        case StartAdmitted():
            return 10, "Account, limits and quota are checked."
        case StartRejected(message=reason):
            return 10, f"Refused: {reason}"
        case JobCreated():
            return 20, f"The job exists at {title(event.system)}."
        case JobSubmitted():
            return 25, "The job is handed to the scheduler."
        case JobStatusChanged(job_status=status, words=words):
            return _status(status, words)
        case ProgressReported(percent=percent, message=text):
            return JOB_BEGINS + percent * (JOB_LISTENS - JOB_BEGINS) // 100, text
        case ServerListening():
            return 85, "The server is listening on its compute node."
        case TunnelReady(generation=generation):
            return 92, "The way to the server is open." if generation == 1 else "The way to the server is open again."
        case TunnelLost(reason=reason, rebuilding=rebuilding):
            return (
                85,
                f"The way to the server broke ({reason}); {'it is being rebuilt' if rebuilding else 'it stays so'}.",
            )
        case ServerReady():
            return 98, "The server answers."
        case StopRequested(by=by, reason=reason):
            return 99, f"Stopping, asked by {by}: {reason}"
        case SessionEnded():
            return 100, failure_text(event)


def _status(status: Queued | Configuring | Running | Unknown, words: str) -> tuple[int, str]:
    site = f" The site says: {words}" if words else ""
    match status:
        case Queued(place_in_queue=place, estimated_start=estimate):
            where = f", place {place}" if place is not None else ""
            when = f", expected to start at {estimate:%Y-%m-%d %H:%M} UTC" if estimate is not None else ""
            return 30, f"Waiting in the scheduler's queue{where}{when}.{site}"
        case Configuring():
            return 35, f"The nodes are being prepared.{site}"
        case Running():
            return JOB_BEGINS, f"The job runs.{site}"
        case Unknown(evidence=evidence):
            return 30, f"The site gives no clear answer ({evidence}); the start goes on and is asked about again."


def failure_text(end: SessionEnded) -> str:
    """Why a session ended and what helps, in one line of plain text."""
    return " ".join(f"{end.reason} {end.remedy}".split())


def failure_html(end: SessionEnded, again: str = "") -> Markup:
    """The same as HTML, with a link to sign in `again`, and the last lines of the job's logs folded away."""
    parts = [Markup("<span>{}</span>").format(end.reason)]
    if end.remedy:
        parts.append(Markup(" <strong>{}</strong>").format(end.remedy))
    if again:
        parts.append(Markup(' <a class="btn btn-primary btn-sm" href="{}">Sign in again</a>').format(again))
    parts.extend(
        Markup("<details><summary>{}</summary><pre>{}</pre></details>").format(name, escape(text))
        for name, text in _logs(end.log_tail)
        if text.strip()
    )
    return Markup("").join(parts)


def _logs(tail: LogTail) -> list[tuple[str, str]]:
    return [
        ("The last lines of the job's errors", tail.stderr),
        ("The last lines of the job's output", tail.stdout),
        ("What the site logged", tail.site),
    ]
