"""`farlab replay`, `export` and `import`: recorded sessions, again and elsewhere."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from services._runtime.service import utc_now
from services.operator_cli import read
from services.operator_cli import replay as replaying
from services.operator_cli.acts.consent import Consent
from services.operator_cli.bundle import SUFFIX
from services.operator_cli.commands.context import (
    IMPORTED,
    BundleOption,
    ConfigOption,
    DryRunOption,
    JsonOption,
    YesOption,
    run,
    with_broker,
    with_histories,
)
from services.operator_cli.output import checked, fail
from services.operator_cli.sandbox.into import PATIENCE_SECONDS, Into, replay_into

app = typer.Typer()


@app.command()
def replay(
    sessions: Annotated[list[str] | None, typer.Argument(help="session ids, parts of them, or USER/SERVER")] = None,
    config: ConfigOption = None,
    bundle: BundleOption = "",
    to: Annotated[str, typer.Option(help="stop after this sequence or the first event of this type")] = "",
    speed: Annotated[float, typer.Option(help="1 is as it was, 10 ten times as fast; 0 waits for nothing")] = 0.0,
    state: Annotated[bool, typer.Option("--state", help="show all of the state after each event")] = False,
    decide: Annotated[
        bool, typer.Option("--decide", help="ask today's deciders what they would do; without SESSIONS, for all")
    ] = False,
    into: Annotated[
        str, typer.Option(help="say them again in a sandbox: its farlab.toml, or the address of its broker")
    ] = "",
    as_recorded: Annotated[
        bool, typer.Option("--as-recorded", help="with --into: every event as it was, where no service answers")
    ] = False,
    as_system: Annotated[str, typer.Option(help="with --into: on this system of the sandbox")] = "",
    as_user: Annotated[str, typer.Option(help="with --into: as this user of the sandbox")] = "",
    as_place: Annotated[str, typer.Option(help="with --into: as this ACCOUNT/PROJECT/PARTITION")] = "",
    beside: Annotated[
        list[str] | None, typer.Option(help="with --into: a hub whose sessions the sandbox may hold")
    ] = None,
    patience_seconds: Annotated[
        float, typer.Option("--patience", help="with --into: seconds for each step")
    ] = PATIENCE_SECONDS,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    whole: Annotated[
        bool, typer.Option("--all", help="make every read model anew from the whole log, and compare the live ones")
    ] = False,
    since: Annotated[str, typer.Option(help="with --all: look at sessions from then on: 10m, 2h, or a time")] = "",
    as_json: JsonOption = False,
) -> None:
    """Step through a session's events, hold today's deciders against them, say them again in a sandbox, or make read
    models anew.
    """
    named = sessions or []
    if speed < 0:
        fail(f"--speed {speed:g}: time does not run backwards; give 0 or more")
    if whole:
        moment = checked(lambda: read.since(since, utc_now()))
        with_broker(config, lambda broker, here: replaying.rebuild(broker, here, moment, as_json=as_json))
        return
    if decide:
        with_histories(config, bundle, lambda source: replaying.decide_again(source, named, as_json=as_json))
        return
    if into:
        asked = Into(
            into=into,
            system=checked(lambda: read.system_token(as_system)),
            user=as_user,
            place=as_place,
            beside=beside or (),
            speed=speed,
            as_recorded=as_recorded,
            patience_seconds=patience_seconds,
        )
        consent = Consent(yes=yes, dry_run=dry_run)
        with_histories(config, bundle, lambda source: replay_into(source, named, asked, consent, as_json=as_json))
        return
    if len(named) != 1:
        fail("name one session, several with --into, or ask about all of them with --decide")
    with_histories(
        config,
        bundle,
        lambda source: replaying.step_through(source, named[0], to=to, speed=speed, with_state=state, as_json=as_json),
    )


@app.command()
def decisions(
    session: Annotated[str, typer.Argument(help="session id, part of one, or USER/SERVER; default: all")] = "",
    config: ConfigOption = None,
    bundle: BundleOption = "",
    as_json: JsonOption = False,
) -> None:
    """Print what this build's deciders say at each recorded event, a line each: two builds compare with `diff`."""
    with_histories(config, bundle, lambda source: replaying.tell_decisions(source, session, as_json=as_json))


@app.command()
def export(
    sessions: Annotated[list[str], typer.Argument(help="session ids, parts of them, or USER/SERVER")],
    out: Annotated[Path, typer.Option("--out", "-o", help="the file to write")] = Path(f"sessions{SUFFIX}"),
    config: ConfigOption = None,
) -> None:
    """Write sessions into a file that can be sent: names replaced, output of jobs left out."""
    made_by = f"farlab {version('farlab')}"
    with_histories(config, "", lambda source: replaying.export(source, sessions, out, made_by))


@app.command("import")
def take_in(file: Annotated[Path, typer.Argument(help="a file that `farlab export` wrote")]) -> None:
    """Check a bundle and keep it, so that `timeline`, `explain` and `replay` read it with --bundle."""

    async def work() -> int:
        return replaying.take_in(file, IMPORTED)

    run(work)
