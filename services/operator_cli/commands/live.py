"""`farlab top`: what goes on now, on one screen."""

from __future__ import annotations

import sys

import typer

from services._runtime.configuration import ConfigurationError
from services._runtime.connection import Broker
from services._runtime.lag import lags
from services._runtime.service import utc_now
from services._runtime.settings import Configuration
from services.operator_cli.commands.context import ConfigOption, with_broker
from services.operator_cli.live.board import Board
from services.operator_cli.nats_config import SERVICES

app = typer.Typer()


@app.command()
def top(config: ConfigOption = None) -> None:
    """Watch systems and sessions; Enter shows a timeline, q leaves."""

    async def work(broker: Broker, here: Configuration) -> int:
        if not sys.stdout.isatty():
            raise ConfigurationError("farlab top needs a terminal; for programs there is `farlab sessions --json`")
        from services.operator_cli.live.screen import Top  # loading Textual takes longer than most commands

        board = Board()
        following = await broker.log.follow("SESSIONS", [here.subjects.sessions()], board.observe)
        try:
            await Top(board, list(here.catalogue), lambda: lags(broker.log, SERVICES), utc_now).run_async()
        finally:
            await following.close()
        return 0

    with_broker(config, work)
