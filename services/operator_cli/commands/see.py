"""`farlab sessions`, `timeline` and `events`: what the log says. Changes nothing."""

from __future__ import annotations

from typing import Annotated

import typer

from services._runtime.configuration import ConfigurationError
from services._runtime.service import utc_now
from services.operator_cli import read
from services.operator_cli.commands.context import ConfigOption, JsonOption, with_broker
from services.operator_cli.output import fail

app = typer.Typer()


@app.command()
def sessions(
    config: ConfigOption = None,
    user: Annotated[str, typer.Option(help="only of this user")] = "",
    system: Annotated[str, typer.Option(help="only on this system")] = "",
    live: Annotated[bool, typer.Option("--live", help="only those that have not ended")] = False,
    as_json: JsonOption = False,
) -> None:
    """List sessions."""
    with_broker(config, lambda broker, here: read.sessions(broker, here, user, system, live=live, as_json=as_json))


@app.command()
def timeline(
    session: Annotated[str, typer.Argument(help="session id, part of one, or USER/SERVER")],
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Tell the story of one session."""
    with_broker(config, lambda broker, here: read.timeline(broker, here, session, as_json=as_json))


@app.command()
def events(
    config: ConfigOption = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="go on with what comes")] = False,
    event_type: Annotated[str, typer.Option("--type", help="only this type, such as job-created")] = "",
    system: Annotated[str, typer.Option(help="only on this system")] = "",
    session: Annotated[str, typer.Option(help="only of this session, or of those whose ids begin so")] = "",
    since: Annotated[str, typer.Option(help="only from then on: 10m, 2h, or a time such as 2026-11-23T12:00")] = "",
    as_json: JsonOption = False,
) -> None:
    """Print events of the log."""
    try:
        moment = read.since(since, utc_now())
    except ConfigurationError as error:
        fail(str(error))
    with_broker(
        config,
        lambda broker, here: read.events(
            broker, here, event_type, system, session, since=moment, follow=follow, as_json=as_json
        ),
    )
