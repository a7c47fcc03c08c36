"""How the operator's command speaks: tables on a terminal, JSON for programs, errors in one line."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import NoReturn, TypeVar

import msgspec
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from services._runtime.configuration import ConfigurationError

Answer = TypeVar("Answer")

PIPE_WIDTH = 240
"""Columns of a table that goes to a file or another program, where nobody told how wide a line may be."""


TOLD_AFTER_SECONDS, TOLD_AGAIN_SECONDS = 1.0, 0.2
"""When it is told that something is under way, and how often how far it has come."""


console = Console(width=None if sys.stdout.isatty() else PIPE_WIDTH)
errors = Console(stderr=True)


@asynccontextmanager
async def telling(what: str, count: Callable[[], int]) -> AsyncIterator[None]:
    """Says on a terminal how far something has come that takes longer than a second; elsewhere nothing."""
    if not sys.stderr.isatty():
        yield
        return
    loop, status = asyncio.get_running_loop(), errors.status("")
    begun = False
    later: asyncio.TimerHandle

    def tell() -> None:
        nonlocal begun, later
        status.update(f"{what}: {count():,}")
        if not begun:
            status.start()
            begun = True
        later = loop.call_later(TOLD_AGAIN_SECONDS, tell)

    later = loop.call_later(TOLD_AFTER_SECONDS, tell)
    try:
        yield
    finally:
        later.cancel()
        status.stop()


def fail(message: str, code: int = 2) -> NoReturn:
    """Says what is wrong in one line and ends the command."""
    errors.print(
        f"farlab: {one_line(message)}",
        style="red" if sys.stderr.isatty() else None,
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    raise typer.Exit(code)


def checked(value: Callable[[], Answer]) -> Answer:
    """What an option means; a value that means nothing ends the command with the one line that says so."""
    try:
        return value()
    except ConfigurationError as error:
        fail(str(error))


def print_json(value: object) -> None:
    """One line of JSON."""
    sys.stdout.write(msgspec.json.encode(value).decode() + "\n")
    sys.stdout.flush()


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table; what comes from users and sites is shown as it is, never as markup."""
    table = Table(title=title, title_justify="left", show_edge=False, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*[Text(_plain(cell)) for cell in row])
    console.print(table)


def one_line(message: str) -> str:
    """A message that fits one line and cannot steer a terminal, whoever worded it."""
    return _plain(" | ".join(line.strip() for line in message.splitlines() if line.strip()))


def _plain(text: str) -> str:
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in text)
