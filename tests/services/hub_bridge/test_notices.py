"""What operators announce reaches users: on the form beside the system, and first on the page of a start."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import msgspec
import pytest

from schemas.subjects import Subjects
from schemas.system import (
    SystemAnnounced,
    SystemDown,
    SystemDrained,
    SystemEvent,
    SystemResumed,
    SystemUp,
)
from services._runtime.memory import MemoryLog
from services._runtime.standing import notice, standing
from services.hub_bridge.form import options_form
from services.hub_bridge.notices import NoticeBoard
from services.hub_bridge.offer import Offer, OrganisationOffer, SystemOffer
from tests.support.samples import SYSTEM, stamp

SUBJECTS = Subjects()
NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
SAID: dict[str, Any] = {"system": SYSTEM, "by": "operator ada"}
COOLING = SystemAnnounced(
    **SAID, reason="new cooling", starts=NOW + timedelta(days=1), ends=NOW + timedelta(days=1, hours=4)
)


async def board(*events: SystemEvent) -> NoticeBoard:
    log = MemoryLog()
    board = NoticeBoard(log, SUBJECTS)
    await board.start()
    for number, event in enumerate(events):
        stamped = stamp()(event, after=number, cause=None)
        subject = SUBJECTS.system_event(event.system, "x")
        await log.append("SYSTEMS", subject, stamped, scope=SUBJECTS.system(event.system), after=number)
    await log.settled()
    await board.close()
    return board


@pytest.mark.parametrize(
    ("events", "at", "said"),
    [
        ([], NOW, ""),
        ([COOLING], NOW, "Maintenance from 2026-11-24 12:00 UTC until 2026-11-24 16:00 UTC: new cooling."),
        ([COOLING], NOW + timedelta(days=1, hours=1), "Maintenance since 2026-11-24 12:00 UTC until"),
        ([COOLING], NOW + timedelta(days=2), ""),
        ([SystemDrained(**SAID, reason="Disks fail!")], NOW, "Takes no new servers: Disks fail!"),
        ([SystemDrained(**SAID, reason="x"), SystemResumed(**SAID, reason="y")], NOW, ""),
        ([SystemDown(**SAID, reason="x"), COOLING], NOW, "Does not answer at the moment: x. Maintenance from"),
        ([SystemDown(**SAID, reason="x"), SystemUp(**SAID, reason="y")], NOW, ""),
    ],
)
async def test_users_are_told_what_holds_now(events: list[SystemEvent], at: datetime, said: str) -> None:
    here = await board(*events)
    text = here.texts([SYSTEM, "other"], at).get(SYSTEM, "")
    assert text.startswith(said)
    assert bool(text) == bool(said)
    message = here.message(SYSTEM, "Demo HPC", at)
    assert (message or {}).get("message", "") == (f"Demo HPC: {text}" if text else "")


def test_the_form_shows_it_beside_the_system_and_as_text() -> None:
    system = SystemOffer(title="Demo HPC", description="", accounts={"a": {"p": ["batch"]}}, partitions={})
    open_to = Offer(organisations={"default": OrganisationOffer(title="all", systems={SYSTEM: system, "b": system})})
    told = msgspec.structs.replace(open_to, notices={SYSTEM: "Takes no new servers: <script>alert(1)</script>"})
    html = options_form(told, {})
    assert html.count('class="farlab-notice"') == 1
    assert html.index(SYSTEM) < html.index("Takes no new servers: &lt;script&gt;alert(1)&lt;/script&gt;")
    assert "<script>alert" not in html
    assert 'farlab-notice"' not in options_form(open_to, {})


def test_times_are_told_in_utc_and_an_end_that_is_not_known_is_not() -> None:
    open_end = msgspec.structs.replace(COOLING, ends=None)
    text = notice(standing(SYSTEM, [], NOW), NOW)
    assert text == ""
    abroad = msgspec.structs.replace(COOLING, starts=COOLING.starts.astimezone(timezone(timedelta(hours=5))))
    assert "from 2026-11-24 12:00 UTC" in notice(
        msgspec.structs.replace(standing(SYSTEM, [], NOW), maintenance=abroad), NOW
    )
    assert "until" not in notice(msgspec.structs.replace(standing(SYSTEM, [], NOW), maintenance=open_end), NOW)
