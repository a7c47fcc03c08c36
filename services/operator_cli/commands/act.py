"""`farlab start` and `stop`: what an operator does, in the log like everybody's acts."""

from __future__ import annotations

from typing import Annotated

import typer

from services.operator_cli.commands.context import (
    DEFAULT_STATE,
    ConfigOption,
    TokenFileOption,
    run,
    token_in,
    with_broker,
)
from services.operator_cli.run import start_server
from services.operator_cli.stop_request import ask_to_stop

app = typer.Typer()


@app.command()
def start(
    user: Annotated[str, typer.Argument(help="whose server")],
    system: Annotated[str, typer.Option(help="where")],
    account: Annotated[str, typer.Option(help="as which account")],
    project: Annotated[str, typer.Option(help="who pays")],
    partition: Annotated[str, typer.Option(help="which partition")],
    runtime_minutes: Annotated[int, typer.Option("--runtime", help="minutes")] = 60,
    server: Annotated[str, typer.Option(help="name of the server; default: the user's default server")] = "",
    hub: Annotated[str, typer.Option("--hub", help="the hub's address")] = "http://127.0.0.1:8000",
    token_file: TokenFileOption = DEFAULT_STATE / "operator.token",
) -> None:
    """Start a user's server through the hub."""
    options = {
        "system": system,
        "account": account,
        "project": project,
        "partition": partition,
        "runtime_minutes": runtime_minutes,
    }
    run(lambda: start_server(hub, token_in(token_file), user, server, options))


@app.command()
def stop(
    session: Annotated[str, typer.Argument(help="session id, part of one, or USER/SERVER")],
    reason: Annotated[str, typer.Option(help="why; the user sees it")],
    config: ConfigOption = None,
) -> None:
    """Ask for a session's end."""
    with_broker(config, lambda broker, here: ask_to_stop(broker, here, session, reason))
