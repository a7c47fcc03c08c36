"""A session in words: where it stands, what it waits for or why it failed, and what would help. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import msgspec

from schemas.base import message_type
from schemas.lifecycle import (
    Admitted,
    Cancelling,
    Created,
    Ended,
    Interrupted,
    Listening,
    NotStarted,
    Reachable,
    Ready,
    Rejected,
    Requested,
    SessionState,
    Stopping,
    Submitted,
    Waiting,
    Withdrawn,
)
from schemas.session import (
    JobStatus,
    JobStatusChanged,
    ProgressReported,
    Queued,
    Running,
    SessionEnded,
    StartWaiting,
    TunnelLost,
    Unknown,
)
from services.operator_cli.story.history import History, Moment, moments
from services.operator_cli.story.phases import phases

SOON_SECONDS = 30.0
"""A part of ours that has not acted for longer than this is worth a look."""


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """`summary` in a sentence; `because`, oldest first; `remedy` is empty where nothing needs doing."""

    summary: str
    waits_for: str
    because: list[str]
    remedy: str


def explain(history: History, now: datetime) -> Explanation:
    """What there is to say of a session now."""
    told = list(moments(history))
    state: SessionState = told[-1].after if told else NotStarted()
    silent_seconds = max((now - told[-1].event.at).total_seconds(), 0.0) if told else 0.0
    summary, waits_for, remedy = _standing(state, told, silent_seconds)
    return Explanation(summary=summary, waits_for=waits_for, because=_because(state, told, history), remedy=remedy)


def _standing(state: SessionState, told: Sequence[Moment], silent_seconds: float) -> tuple[str, str, str]:
    """Summary, what is waited for, remedy."""
    match state:
        case NotStarted():
            return "The log holds no legal beginning of this session.", "", "Look at `farlab events --session ID`."
        case Requested():
            return _ours("The start is asked for.", "accounts", "to admit or reject it", silent_seconds)
        case Waiting(place_in_queue=place):
            why = next((each.event.reason for each in reversed(told) if isinstance(each.event, StartWaiting)), "")
            return f"The start waits at place {place}: {why}", "a free place", ""
        case Rejected(rejection=rejection):
            return f"The start was rejected: {rejection.message}", "accounts, to write the end", rejection.remedy
        case Withdrawn(stop=stop):
            return _ours(f"{stop.by} withdrew the start.", "accounts", "to write the end", silent_seconds)
        case Admitted():
            return _ours("The start is admitted.", "the launcher", "to make the job", silent_seconds)
        case Cancelling(stop=stop):
            return _ours(f"{stop.by} cancelled the start.", "the launcher", "to see that no job is", silent_seconds)
        case Created():
            return _ours("The job exists and is inert.", "the launcher", "to hand it over", silent_seconds)
        case Submitted(job_status=status):
            return _job(status)
        case Listening(generation=generation):
            way = "a way to it" if not generation else "the way to it to be rebuilt"
            return _ours("The server listens on its node.", "the tunneler", f"to open {way}", silent_seconds)
        case Reachable():
            return _ours("A tunnel leads to the server.", "the hub", "to reach it", silent_seconds)
        case Ready():
            return "The user is in.", "", ""
        case Interrupted():
            why = next((each.event.reason for each in reversed(told) if isinstance(each.event, TunnelLost)), "")
            return _ours(f"The way to the server is lost: {why}", "the tunneler", "to rebuild it", silent_seconds)
        case Stopping(stop=stop):
            return _ours(
                f"{stop.by} asked for the end: {stop.reason}", "the launcher", "to end the job", silent_seconds
            )
        case Ended(end=end):
            return f"The session {_ended(end)}: {end.reason}", "", end.remedy


def _ours(fact: str, who: str, to_do: str, silent_seconds: float) -> tuple[str, str, str]:
    remedy = ""
    if silent_seconds > SOON_SECONDS:
        name = who.removeprefix("the ")
        remedy = (
            f"Nothing was said for {silent_seconds:.0f} s: see whether {who} runs, its /readyz and its log ({name})."
        )
    return fact, f"{who}, {to_do}", remedy


def _job(status: JobStatus) -> tuple[str, str, str]:
    match status:
        case Queued(place_in_queue=place, estimated_start=start):
            where = f" at place {place}" if place else ""
            when = f"; the site expects to begin it at {start:%Y-%m-%d %H:%M} UTC" if start else ""
            return f"The job is in the site's queue{where}{when}.", "the site's scheduler", ""
        case Running():
            return "The job runs; its server does not listen yet.", "the job, to start the server", ""
        case Unknown(evidence=evidence):
            remedy = "See whether the site is in maintenance; the launcher asks on and nothing is lost."
            return f"Nobody knows whether the job lives: {evidence}", "the site, to answer", remedy
        case _:
            return "The site prepares nodes for the job.", "the site's scheduler", ""


def _ended(end: SessionEnded) -> str:
    code = f" with exit code {end.exit_code}" if end.exit_code not in (None, 0) else ""
    return {
        "stopped": "was stopped",
        "finished": "finished by itself",
        "failed": f"failed{code}",
        "rejected": "was rejected",
        "expired": "ran out of time",
        "lost": f"was lost{code}",
    }[end.outcome]


def _because(state: SessionState, told: Sequence[Moment], history: History) -> list[str]:
    lines = [f"{phase.name} ({phase.by}): {_seconds(phase.seconds)}" for phase in phases(history)] if told else []
    for moment in told:
        match moment.event:
            case JobStatusChanged(job_status=Unknown(evidence=evidence), at=at):
                lines.append(f"{at:%H:%M:%S} the site was no help: {evidence}")
            case TunnelLost(reason=reason, at=at):
                lines.append(f"{at:%H:%M:%S} the tunnel was lost: {reason}")
            case _:
                pass
        if not moment.legal:
            lines.append(f"{moment.event.at:%H:%M:%S} {message_type(moment.event)} came too late and was ignored")
    if isinstance(state, Ended) and state.end.outcome in ("failed", "lost", "expired"):
        last = next((each.event for each in reversed(told) if isinstance(each.event, ProgressReported)), None)
        if last is not None:
            lines.append(f"the last the job said was: {last.message}")
        tail = state.end.log_tail
        lines += [
            f"{name}: {text.strip().splitlines()[-1]}"
            for name, text in (("stdout", tail.stdout), ("stderr", tail.stderr), ("site", tail.site))
            if text.strip()
        ]
    return lines


def _seconds(seconds: float | None) -> str:
    return "not over yet" if seconds is None else f"{seconds:.1f} s"
