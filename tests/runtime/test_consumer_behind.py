"""A handler that is ahead of its own follower: what it appends must not hide from the view what came before."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from schemas.lifecycle import Ended, SessionState, Stopping
from schemas.session import AnySessionEvent, SessionEnded, SessionEvent
from schemas.subjects import Subjects
from services._runtime.consumer import SessionConsumer
from services._runtime.decider import Emit, Perform
from services._runtime.errors import PermanentError
from services._runtime.log import Recorded
from services._runtime.memory import MemoryLog
from services._runtime.view import SessionView, placed
from tests.support.samples import HUB, SYSTEM, Story, stamp

SUBJECTS = Subjects()


def ended(state: SessionState, reason: str) -> list[Emit | Perform[None]]:
    request = getattr(state, "request", None)
    if request is None or isinstance(state, Ended):
        return []
    return [Emit(SessionEnded(hub=HUB, system=SYSTEM, session=request.session, outcome="failed", reason=reason))]


def decide(state: SessionState, event: AnySessionEvent | None) -> list[Emit | Perform[None]]:
    return ended(state, "as asked") if isinstance(state, Stopping) else []


def give_up(state: SessionState, error: PermanentError) -> list[Emit | Perform[None]]:
    return ended(state, error.reason)


async def no_act(command: None) -> Sequence[SessionEvent]:
    return []


class Stage:
    """A consumer whose follower brought the first event and then fell behind what others append."""

    def __init__(self) -> None:
        self.log, self.view, self.story = MemoryLog(), SessionView(), Story()
        self.consumer: SessionConsumer[None] = SessionConsumer(
            log=self.log,
            subjects=SUBJECTS,
            view=self.view,
            stamp=stamp("mine"),
            decide=decide,
            perform=no_act,
            give_up=give_up,
        )

    async def append(self, *events: SessionEvent) -> tuple[SessionEvent, int]:
        """As another service does; the last of them as it stands in the log."""
        sequence, stamped = len(await self.history()), events[0]
        scope = SUBJECTS.session(self.story.session)
        for event in events:
            stamped = stamp("other")(event, after=sequence, cause=None)
            subject = SUBJECTS.session_event(stamped)
            sequence = await self.log.append("SESSIONS", subject, stamped, scope=scope, after=sequence)
        return stamped, sequence

    async def history(self) -> list[Recorded]:
        return await self.log.history("SESSIONS", SUBJECTS.session(self.story.session))

    async def begun(self) -> None:
        """The start is in the log, and the view knows it."""
        request, sequence = await self.append(self.story.requested())
        self.view.observe(Recorded(sequence, request))

    async def follower_arrives(self) -> list[int]:
        """The sequences that watchers of the view are told of, now that the follower brings everything."""
        told: list[int] = []
        self.view.watch(lambda recorded, before, after: told.append(recorded.sequence))
        await self.view.follow(self.log, [SUBJECTS.sessions()])
        return told


async def test_what_the_follower_brings_later_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services._runtime.consumer.FOLLOWER_BEHIND_SECONDS", 0.01)
    here = Stage()
    story = here.story
    await here.begun()
    stop, sequence = await here.append(story.admitted(), story.created(), story.stop())
    await here.consumer.handle(stop, sequence)
    history = await here.history()
    assert isinstance(history[-1].message, SessionEnded)
    assert await here.follower_arrives() == [2, 3, 4, 5], "each event once and in order, whoever appended it"
    assert here.view.get(story.session) == placed(history)


async def test_an_end_written_from_the_history_is_known_when_the_follower_is_there() -> None:
    """Otherwise the session would be live in this process for ever, and everything about it refused."""
    here = Stage()
    await here.begun()
    await here.append(here.story.admitted())
    await here.consumer.fail(here.story.session, PermanentError("broken", "It is broken.", "Ask."))
    await here.follower_arrives()
    known = here.view.get(here.story.session)
    assert known == placed(await here.history())
    assert known is not None
    assert isinstance(known.state, Ended)
    assert len(here.view) == 0


async def test_a_view_that_is_up_to_date_takes_the_append_at_once() -> None:
    here = Stage()
    await here.follower_arrives()
    await here.append(here.story.requested(), here.story.admitted(), here.story.created())
    await here.append(here.story.stop())
    await here.consumer.nudge(here.story.session)
    known = here.view.get(here.story.session)
    assert known is not None
    assert isinstance(known.state, Ended)
