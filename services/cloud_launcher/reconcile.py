"""Compares what the log wants on a cloud with the pods it has, and says what closes the difference. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from schemas.base import SessionId
from schemas.lifecycle import Admitted, Cancelling, Created, Ended, NotStarted, SessionState, Stopping, WithJob
from services.cloud_launcher.ports import PodName, Seen


class Nudge(msgspec.Struct, frozen=True):
    """The session has a pod that it does not know of yet: decide again, which adopts or ends it."""

    session: SessionId


class Remove(msgspec.Struct, frozen=True):
    """The cloud has a pod that the log does not want."""

    pod: PodName
    why: str


Step = Nudge | Remove


def overdue(state: SessionState) -> bool:
    """Whether the state demands something of the launcher, so that none may rest in it."""
    return isinstance(state, Admitted | Created | Cancelling | Stopping)


def strays(states: Mapping[SessionId, SessionState], pods: Iterable[Seen]) -> list[Seen]:
    """The pods that may be unwanted by what the view knows; the log itself has the last word on them."""
    return [seen for seen in pods if not seen.leaving and not _wanted(states.get(seen.session or SessionId("")), seen)]


def _wanted(state: SessionState | None, seen: Seen) -> bool:
    return isinstance(state, WithJob) and PodName.of(state.job).uid == seen.pod.uid


def compare(wanted: Mapping[SessionId, SessionState], pods: Iterable[Seen]) -> list[Step]:
    """The steps for pods that carry our label, given the states of the sessions they name."""
    steps: list[Step] = []
    for seen in pods:
        if seen.session is None:
            steps.append(Remove(seen.pod, "it names no session"))
            continue
        match wanted.get(seen.session, NotStarted()):
            case Admitted() | Cancelling():
                steps.append(Nudge(seen.session))
            case state if isinstance(state, WithJob):
                if not _wanted(state, seen):
                    steps.append(Remove(seen.pod, "its session has another pod"))
            case Ended():
                steps.append(Remove(seen.pod, "its session has ended"))
            case NotStarted():
                steps.append(Remove(seen.pod, "the log knows no such session"))
            case _:
                steps.append(Remove(seen.pod, "its session was not admitted"))
    return steps
