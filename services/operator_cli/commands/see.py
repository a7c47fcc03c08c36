"""`farlab sessions`, `timeline`, `events`, `explain` and `stats`: what the log says. Changes nothing."""

from __future__ import annotations

from typing import Annotated

import typer

from services._runtime.service import utc_now
from services.operator_cli import read
from services.operator_cli.commands.context import (
    BundleOption,
    ConfigOption,
    JsonOption,
    systems_beginning,
    with_broker,
    with_histories,
)
from services.operator_cli.output import checked
from services.operator_cli.story.row import Order, Wanted

app = typer.Typer()

SessionArgument = Annotated[str, typer.Argument(help="session id, part of one, or USER/SERVER")]
SystemOption = Annotated[str, typer.Option(help="only on this system", autocompletion=systems_beginning)]
SinceOption = Annotated[str, typer.Option(help="only from then on: 10m, 2h, or a time such as 2026-11-23T12:00")]


@app.command()
def sessions(
    config: ConfigOption = None,
    bundle: BundleOption = "",
    user: Annotated[str, typer.Option(help="only of this user")] = "",
    system: SystemOption = "",
    vo: Annotated[str, typer.Option(help="only of this virtual organisation")] = "",
    state: Annotated[str, typer.Option(help="only in this state, such as submitted")] = "",
    live: Annotated[bool, typer.Option("--live", help="only those that have not ended")] = False,
    since: SinceOption = "",
    longer_than: Annotated[str, typer.Option(help="only those in their state for longer than 10m, 2h, 3d")] = "",
    sort: Annotated[Order, typer.Option(help="in this order")] = "started",
    watch: Annotated[bool, typer.Option("--watch", "-w", help="again every second, until Ctrl-C")] = False,
    as_json: JsonOption = False,
) -> None:
    """List sessions."""
    wanted = Wanted(
        user=user,
        system=system,
        vo=vo,
        state=state,
        live=live,
        started_after=checked(lambda: read.since(since, utc_now())),
        in_state_longer_than=checked(lambda: read.duration("--longer-than", longer_than)),
    )
    with_histories(
        config,
        bundle,
        lambda source: read.sessions(source, wanted, order=sort, watch=watch, as_json=as_json),
    )


@app.command()
def timeline(
    session: SessionArgument, config: ConfigOption = None, bundle: BundleOption = "", as_json: JsonOption = False
) -> None:
    """Tell the story of one session."""
    with_histories(config, bundle, lambda source: read.timeline(source, session, as_json=as_json))


@app.command()
def explain(
    session: SessionArgument, config: ConfigOption = None, bundle: BundleOption = "", as_json: JsonOption = False
) -> None:
    """Say in words where a session stands, what it waits for or why it failed, and what would help."""
    with_histories(config, bundle, lambda source: read.explain(source, session, as_json=as_json))


@app.command()
def stats(
    config: ConfigOption = None,
    bundle: BundleOption = "",
    system: SystemOption = "",
    since: SinceOption = "",
    as_json: JsonOption = False,
) -> None:
    """Say how long starts take, by phase and system, and why sessions fail."""
    wanted = Wanted(system=system, started_after=checked(lambda: read.since(since, utc_now())))
    with_histories(config, bundle, lambda source: read.stats(source, wanted, as_json=as_json))


@app.command()
def events(
    config: ConfigOption = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="go on with what comes")] = False,
    event_type: Annotated[str, typer.Option("--type", help="only this type, such as job-created")] = "",
    system: SystemOption = "",
    session: Annotated[str, typer.Option(help="only of this session, or of those whose ids begin so")] = "",
    since: SinceOption = "",
    grep: Annotated[str, typer.Option(help="only with this text in any field, in capitals or not")] = "",
    as_json: JsonOption = False,
) -> None:
    """Print events of the log."""
    moment = checked(lambda: read.since(since, utc_now()))
    wanted = read.EventFilter(event_type=event_type, session=session, since=moment, grep=grep)
    with_broker(config, lambda broker, here: read.events(broker, here, wanted, system, follow=follow, as_json=as_json))
