"""A whole log, folded as it streams by: the states of `view`, what was passed over, and nothing kept besides."""

from __future__ import annotations

import gc

from schemas.lifecycle import Ended, NotStarted, Ready
from schemas.session import SessionEvent
from schemas.subjects import Subjects
from services._runtime.memory import MemoryLog
from services.operator_cli.story.history import state_of
from services.operator_cli.whole_log import Sessions
from tests.services.operator_cli.histories import recorded
from tests.support.samples import NOW, Story

SUBJECTS = Subjects()


async def test_every_session_is_where_its_own_history_leads() -> None:
    lives, over, stray = Story(), Story(), Story()
    histories = [
        recorded(lives.requested(), lives.admitted(), lives.created(), lives.submitted(), lives.listening()),
        recorded(over.requested(), over.ended(), over.ready()),
        recorded(stray.created()),
    ]
    histories[0] += recorded(lives.tunnel(), lives.ready(), first=6)
    log = MemoryLog()
    for history in histories:
        after = 0
        for each in history:
            event = each.message
            assert isinstance(event, SessionEvent)
            scope = SUBJECTS.session(event.session)
            after = await log.append("SESSIONS", SUBJECTS.session_event(event), event, scope=scope, after=after)
    collects = gc.isenabled()
    sessions = Sessions()
    await sessions.read(log, SUBJECTS)
    assert gc.isenabled() == collects
    assert sessions.events == 11
    assert [type(state) for state in sessions.states.values()] == [Ready, Ended, NotStarted]
    assert list(sessions.states.values())[:2] == [state_of(history) for history in histories[:2]]
    assert [(each.session, each.event) for each in sessions.ignored] == [
        (over.session, "server-ready"),
        (stray.session, "job-created"),
    ]
    assert (sessions.last[over.session] - NOW).total_seconds() == 3
