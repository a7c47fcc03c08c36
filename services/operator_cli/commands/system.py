"""`farlab system`: announce a maintenance, drain a system, let starts in again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from schemas.base import SystemName
from schemas.system import AnySystemEvent, SystemAnnounced, SystemDown, SystemDrained, SystemResumed, SystemUp
from services._runtime.configuration import ConfigurationError
from services._runtime.connection import Broker
from services._runtime.service import stamp_of, utc_now
from services._runtime.settings import Configuration
from services.operator_cli.acts.append import Operator
from services.operator_cli.acts.consent import Consent, agreed, operator
from services.operator_cli.acts.systems import known_system, moment, say, standings
from services.operator_cli.commands.context import ConfigOption, DryRunOption, JsonOption, YesOption, with_broker
from services.operator_cli.output import console, fail, print_json, print_table

app = typer.Typer(help="Say what holds for a whole system.", no_args_is_help=True)

SystemArgument = Annotated[str, typer.Argument(help="name of the system")]
ReasonOption = Annotated[str, typer.Option(help="why; users see it")]


@app.command("list")
def list_systems(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """List systems, and what operators said of them."""

    async def work(broker: Broker, here: Configuration) -> int:
        found = await standings(broker.log, here, utc_now())
        if as_json:
            print_json(found)
            return 0
        rows = []
        for each in found:
            said = f"drained: {each.drained}" if each.drained else "takes starts"
            said = f"{said}; down: {each.down}" if each.down else said
            plan = each.maintenance
            ends = f" to {plan.ends:%Y-%m-%d %H:%M %Z}" if plan and plan.ends else ""
            planned = f"{plan.starts:%Y-%m-%d %H:%M %Z}{ends}: {plan.reason}" if plan else ""
            rows.append((each.system, said, each.by, planned))
        print_table(f"{len(rows)} systems", ("system", "says", "by", "maintenance"), rows)
        return 0

    with_broker(config, work)


@app.command()
def drain(
    system: SystemArgument,
    reason: ReasonOption,
    config: ConfigOption = None,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
) -> None:
    """Refuse new starts; running sessions go on."""
    _say(config, system, lambda name: SystemDrained(system=name, by=operator(), reason=reason), yes, dry_run)


@app.command()
def resume(
    system: SystemArgument,
    reason: ReasonOption,
    config: ConfigOption = None,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
) -> None:
    """Let new starts in again."""
    _say(config, system, lambda name: SystemResumed(system=name, by=operator(), reason=reason), yes, dry_run)


@app.command()
def down(
    system: SystemArgument,
    reason: ReasonOption,
    config: ConfigOption = None,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
) -> None:
    """Say that a site does not answer."""
    _say(config, system, lambda name: SystemDown(system=name, by=operator(), reason=reason), yes, dry_run)


@app.command()
def up(
    system: SystemArgument,
    reason: ReasonOption,
    config: ConfigOption = None,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
) -> None:
    """Say that a site answers again."""
    _say(config, system, lambda name: SystemUp(system=name, by=operator(), reason=reason), yes, dry_run)


@app.command()
def announce(
    system: SystemArgument,
    starts: Annotated[str, typer.Option(help="when, such as 2026-12-01T08:00+01:00")],
    reason: ReasonOption,
    ends: Annotated[str, typer.Option(help="until when")] = "",
    config: ConfigOption = None,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
) -> None:
    """Announce a maintenance."""
    try:
        begin, end = moment("--starts", starts), moment("--ends", ends) if ends else None
    except ConfigurationError as error:
        fail(str(error))
    if end is not None and end <= begin:
        fail(f"--ends {ends}: not after --starts {starts}; name a later time")
    _say(
        config,
        system,
        lambda name: SystemAnnounced(system=name, by=operator(), reason=reason, starts=begin, ends=end),
        yes,
        dry_run,
    )


def _say(
    config: ConfigOption, system: str, event: Callable[[SystemName], AnySystemEvent], yes: bool, dry_run: bool
) -> None:
    async def work(broker: Broker, here: Configuration) -> int:
        said = event(known_system(here, system))
        what = type(said).__name__.removeprefix("System").lower()
        preview = [f"{system}: {what}, by {said.by}: {said.reason}"]
        if agreed(Consent(yes=yes, dry_run=dry_run), f"Say so of {system}?", preview):
            hand = Operator(broker.log, here.subjects, stamp_of(here, "operator-cli"))
            console.print(f"{system}: {await say(hand, said)}", markup=False, highlight=False, soft_wrap=True)
        return 0

    with_broker(config, work)
