"""The live screen on a terminal (Textual): tables that follow the board, and a session's timeline on Enter."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import datetime
from typing import ClassVar

from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.screen import Screen
from textual.widgets import DataTable, Footer, Header, Static

from services._runtime.errors import TransientError
from services._runtime.lag import Lag
from services.operator_cli.live.board import Board, is_slow
from services.operator_cli.output import one_line
from services.operator_cli.story.timeline import timeline

REFRESH_SECONDS = 1.0
MOST_ROWS = 500
"""How many sessions the table has; the board counts all."""

AskLags = Callable[[], Awaitable[Sequence[Lag]]]


class TimelineScreen(Screen[None]):
    """One session's events."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q", "app.pop_screen", "back")]

    def __init__(self, board: Board, session: str) -> None:
        super().__init__()
        self._board = board
        self._session = session

    def compose(self) -> ComposeResult:
        """Its widgets."""
        yield Header()
        yield Static(self._session, id="session")
        yield DataTable(id="timeline", cursor_type="row", zebra_stripes=True)
        yield Footer()

    def on_mount(self) -> None:
        """Fills the table, and again as the session goes on."""
        self.query_one(DataTable).add_columns("at", "after", "event", "state", "by", "details")
        self.refresh_rows()
        self.set_interval(REFRESH_SECONDS, self.refresh_rows)

    def refresh_rows(self) -> None:
        """Shows the events there are now."""
        steps = timeline(self._board.history(self._session))
        rows = [
            (
                step.at.strftime("%H:%M:%S.%f")[:-3],
                f"{step.after_seconds:.3f} s",
                step.type,
                step.state,
                step.source.rpartition("/")[2],
                " ".join(f"{name}={value}" for name, value in step.details.items() if value not in ("", None, {}))[
                    :160
                ],
            )
            for step in steps
        ]
        _fill(self.query_one("#timeline", DataTable), rows)


class Top(App[None]):
    """The whole screen. `lags` is asked at every refresh."""

    TITLE = "farlab top"
    CSS = """
    #systems { height: auto; max-height: 12 }
    #figures { padding: 0 1; color: $text-muted }
    #sessions { height: 1fr }
    #timeline { height: 1fr }
    """
    BINDINGS: ClassVar[list[BindingType]] = [Binding("q", "quit", "quit")]

    def __init__(self, board: Board, systems: Sequence[str], lags: AskLags, now: Callable[[], datetime]) -> None:
        super().__init__()
        self._board = board
        self._systems = systems
        self._lags = lags
        self._now = now

    def compose(self) -> ComposeResult:
        """Its widgets."""
        yield Header()
        yield DataTable(id="systems", cursor_type="none")
        yield Static("", id="figures")
        yield DataTable(id="sessions", cursor_type="row", zebra_stripes=True)
        yield Footer()

    async def on_mount(self) -> None:
        """Fills the tables, and again every second."""
        self.query_one("#systems", DataTable).add_columns(
            "system", "starting", "slow", "in use", "stopping", "failed in the last hour"
        )
        self.query_one("#sessions", DataTable).add_columns(
            "session", "user", "server", "system", "state", "for", "outcome", "reason"
        )
        self.query_one("#sessions", DataTable).focus()
        await self.refresh_all()
        self.set_interval(REFRESH_SECONDS, self.refresh_all)

    async def refresh_all(self) -> None:
        """Shows what holds now."""
        now = self._now()
        lines = self._board.systems(self._systems, now)
        _fill(
            self.query_one("#systems", DataTable),
            [
                (
                    each.system,
                    *(str(n) for n in (each.starting, each.slow, each.used, each.stopping, each.failed_lately)),
                )
                for each in lines
            ],
        )
        sessions = self._board.sessions()[:MOST_ROWS]
        table = self.query_one("#sessions", DataTable)
        rows = [
            (
                each.session,
                each.user,
                each.server_name or "(default)",
                each.system,
                f"{each.state} (slow)" if is_slow(each, now) else each.state,
                f"{max(0, int((now - each.since).total_seconds()))} s",
                each.outcome,
                each.reason[:100],
            )
            for each in sessions
        ]
        _fill(table, rows, keys=[each.session for each in sessions])
        self.query_one("#figures", Static).update(Text(await self._figures(now)))

    async def _figures(self, now: datetime) -> str:
        try:
            lags = await self._lags()
        except TransientError as error:
            return one_line(f"the broker does not answer: {error}")
        behind = ", ".join(f"{each.service} {each.waiting} waiting, {each.in_hand} in hand" for each in lags)
        return f"{self._board.events_a_minute(now)} events in the last minute; {behind}"

    async def on_data_table_row_selected(self, event: DataTable.RowSelected) -> None:
        """Enter on a session shows its timeline."""
        if event.data_table.id == "sessions" and event.row_key.value:
            await self.push_screen(TimelineScreen(self._board, event.row_key.value))


def _fill(table: DataTable[Text], rows: Iterable[Sequence[str]], keys: Sequence[str] = ()) -> None:
    """Puts rows in place of those there are; the cursor stays on its row, by key where there is one."""
    at = table.cursor_row
    held = list(table.rows)[at].value if keys and 0 <= at < table.row_count else None
    table.clear()
    for number, cells in enumerate(rows):
        table.add_row(*[Text(one_line(cell)) for cell in cells], key=keys[number] if keys else None)
    table.move_cursor(row=keys.index(held) if held in keys else min(at, max(table.row_count - 1, 0)))
