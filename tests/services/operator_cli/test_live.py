"""The live screen: what its board makes of events, and the screen itself, driven by keys without a terminal."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta

from textual.widgets import DataTable, Static

from schemas.session import SessionEvent
from services._runtime.errors import TransientError
from services._runtime.lag import Lag, lags
from services._runtime.log import Delivery
from services._runtime.settings import Configuration
from services.operator_cli.live.board import ENDED_KEPT, Board
from services.operator_cli.live.screen import TimelineScreen, Top
from tests.services.operator_cli.conftest import signed_in
from tests.services.operator_cli.histories import recorded
from tests.support.samples import NOW, Story, stamp


def told(board: Board, *events: SessionEvent, first: int = 1) -> None:
    for each in recorded(*events, first=first):
        board.observe(each)


def starting(story: Story) -> list[SessionEvent]:
    return [story.requested(), story.admitted(), story.created(), story.submitted()]


def test_a_board_counts_by_system_and_tells_slow_starts_apart() -> None:
    board, waits, used, over = Board(), Story(), Story(user="ben"), Story(user="eve")
    told(board, *starting(waits))
    told(board, *starting(used), used.listening(), used.tunnel(), used.ready(), first=10)
    told(board, *starting(over), over.stop(), over.ended(), first=20)
    soon, later = NOW + timedelta(seconds=30), NOW + timedelta(minutes=10)
    [here, idle] = board.systems(["demo-hpc", "second"], soon)
    assert (here.starting, here.used, here.stopping, here.slow) == (1, 1, 0, 0)
    assert (idle.system, idle.starting) == ("second", 0)
    assert board.systems([], later)[0].slow == 1
    assert [each.user for each in board.sessions()] == ["ada", "ben", "eve"]
    assert board.events_a_minute(soon) == 17
    assert board.events_a_minute(later) == 0
    assert len(board.history(over.session)) == 6


def test_a_board_forgets_old_ends_and_never_what_lives() -> None:
    board, live = Board(), Story()
    told(board, live.requested())
    for number in range(ENDED_KEPT + 50):
        story = Story(user=f"u{number}")
        told(board, story.requested(), story.stop(), story.ended(), first=10 * number + 10)
    assert len(board.sessions()) == ENDED_KEPT + 1
    assert board.sessions()[0].session == live.session


async def test_the_screen_shows_sessions_and_enter_their_timeline() -> None:
    board, story = Board(), Story(user="[b]ada[/b]")
    told(board, *starting(story))
    answer: list[Exception | Lag] = [Lag(service="accounts", waiting=3, in_hand=1, redelivered=0)]

    async def ask() -> Sequence[Lag]:
        if isinstance(answer[0], Exception):
            raise answer[0]
        return [answer[0]]

    top = Top(board, ["demo-hpc"], ask, lambda: NOW + timedelta(seconds=30))
    async with top.run_test() as pilot:
        sessions = top.query_one("#sessions", DataTable)
        assert [str(cell) for cell in sessions.get_row_at(0)][:2] == [story.session, "[b]ada[/b]"]
        assert "accounts 3 waiting, 1 in hand" in str(top.query_one("#figures", Static).render())
        await pilot.press("enter")
        assert isinstance(top.screen, TimelineScreen)
        assert top.screen.query_one(DataTable).row_count == 4
        told(board, story.listening(), first=9)
        top.screen.refresh_rows()
        assert top.screen.query_one(DataTable).row_count == 5
        await pilot.press("escape")
        answer[0] = TransientError("gone")
        await top.refresh_all()
        assert "the broker does not answer: gone" in str(top.query_one("#figures", Static).render())


async def test_a_lag_is_what_the_broker_says(guarded: Configuration) -> None:
    kept: list[Delivery] = []
    arrived = asyncio.Event()

    async def keep(delivery: Delivery) -> None:
        kept.append(delivery)
        arrived.set()

    story = Story()
    async with (
        signed_in(guarded, "hub-bridge") as hub,
        signed_in(guarded, "accounts") as accounts,
        signed_in(guarded, "operator-cli") as operator,
    ):
        subjects = guarded.subjects
        consuming = await accounts.log.consume("accounts", "SESSIONS", [subjects.sessions()], keep, ack_wait_seconds=60)
        event = stamp()(story.requested(), after=0, cause=None)
        await hub.log.append(
            "SESSIONS", subjects.session_event(event), event, scope=subjects.session(story.session), after=0
        )
        async with asyncio.timeout(10):
            await arrived.wait()
        assert [(each.service, each.waiting, each.in_hand) for each in await lags(operator.log, ("accounts", "x"))] == [
            ("accounts", 0, 1)
        ]
        await kept[0].acknowledge()
        await consuming.close()
