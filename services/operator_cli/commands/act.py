"""What an operator does to sessions: `start`, `stop`, `cancel`, `adopt`, `end`, `reconcile`, all in the log."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from schemas.acts import SessionAct
from schemas.lifecycle import SessionState
from services._runtime.configuration import ConfigurationError
from services._runtime.connection import Broker
from services._runtime.errors import PermanentError, TransientError
from services._runtime.service import stamp_of
from services._runtime.settings import Configuration
from services.cloud_launcher.ports import Cluster
from services.hpc_launcher.ports import Site
from services.operator_cli.acts.append import Operator
from services.operator_cli.acts.consent import Consent, agreed
from services.operator_cli.acts.reconcile import jobs_at, plan, pods_at
from services.operator_cli.acts.settle import adoption, ask, ending
from services.operator_cli.acts.stop import ask_to_stop
from services.operator_cli.acts.systems import known_system
from services.operator_cli.commands.context import (
    DEFAULT_STATE,
    ConfigOption,
    DryRunOption,
    JsonOption,
    TokenFileOption,
    YesOption,
    run,
    systems_beginning,
    token_in,
    with_broker,
)
from services.operator_cli.histories import LogHistories
from services.operator_cli.output import checked, console, print_json, print_table
from services.operator_cli.read import duration, system_token
from services.operator_cli.run import start_server
from services.operator_cli.story.history import find, state_of
from services.operator_cli.story.row import Wanted

app = typer.Typer()

SessionArgument = Annotated[str, typer.Argument(help="session id, part of one, or USER/SERVER")]
SessionsArgument = Annotated[list[str] | None, typer.Argument(help="session ids, parts of them, or USER/SERVER")]
ReasonOption = Annotated[str, typer.Option(help="why; the user sees it")]
UserOption = Annotated[str, typer.Option(help="of this user")]
SystemOption = Annotated[str, typer.Option(help="on this system", autocompletion=systems_beginning)]
VoOption = Annotated[str, typer.Option(help="of this virtual organisation")]
StateFilterOption = Annotated[str, typer.Option("--in-state", help="in this state, such as submitted")]
LongerOption = Annotated[str, typer.Option(help="in their state for longer than 10m, 2h, 3d")]


@app.command()
def start(
    user: Annotated[str, typer.Argument(help="whose server")],
    system: Annotated[str, typer.Option(help="where", autocompletion=systems_beginning)],
    account: Annotated[str, typer.Option(help="as which account, on an HPC system")] = "",
    project: Annotated[str, typer.Option(help="who pays, on an HPC system")] = "",
    partition: Annotated[str, typer.Option(help="which partition of an HPC system")] = "",
    flavour: Annotated[str, typer.Option(help="which flavour of a cloud")] = "",
    image: Annotated[str, typer.Option(help="which image of a cloud")] = "",
    runtime_minutes: Annotated[int, typer.Option("--runtime", help="minutes")] = 60,
    server: Annotated[str, typer.Option(help="name of the server; default: the user's default server")] = "",
    hub: Annotated[str, typer.Option("--hub", help="the hub's address")] = "http://127.0.0.1:8000",
    token_file: TokenFileOption = DEFAULT_STATE / "operator.token",
) -> None:
    """Start a user's server through the hub."""
    asked = {
        "system": system,
        "account": account,
        "project": project,
        "partition": partition,
        "flavour": flavour,
        "image": image,
        "runtime_minutes": runtime_minutes,
    }
    options = {name: value for name, value in asked.items() if value}
    run(lambda: start_server(hub, token_in(token_file), user, server, options))


@app.command()
def stop(
    reason: ReasonOption,
    sessions: SessionsArgument = None,
    user: UserOption = "",
    system: SystemOption = "",
    vo: VoOption = "",
    state: StateFilterOption = "",
    longer_than: LongerOption = "",
    config: ConfigOption = None,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
) -> None:
    """Ask for the end of sessions: those named, or all live ones that the filters take."""
    wanted = _wanted(user, system, vo, state, longer_than)
    consent = Consent(yes=yes, dry_run=dry_run)
    with_broker(config, lambda broker, here: ask_to_stop(broker, here, sessions or [], wanted, reason, consent))


@app.command()
def cancel(
    reason: ReasonOption,
    sessions: SessionsArgument = None,
    user: UserOption = "",
    system: SystemOption = "",
    vo: VoOption = "",
    state: StateFilterOption = "",
    longer_than: LongerOption = "",
    config: ConfigOption = None,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
) -> None:
    """As `stop`, and only starts: sessions that somebody is in stay."""
    wanted = _wanted(user, system, vo, state, longer_than)
    consent = Consent(yes=yes, dry_run=dry_run)
    with_broker(
        config,
        lambda broker, here: ask_to_stop(broker, here, sessions or [], wanted, reason, consent, starts_only=True),
    )


@app.command()
def adopt(
    session: SessionArgument,
    job: Annotated[str, typer.Argument(help="the job at the site, as the launcher names it")],
    reason: ReasonOption,
    config: ConfigOption = None,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
) -> None:
    """Say which job at the site is a session's, where the log knows of none."""
    _settle(config, session, Consent(yes=yes, dry_run=dry_run), lambda state: adoption(state, job, reason))


@app.command()
def end(
    session: SessionArgument,
    reason: ReasonOption,
    config: ConfigOption = None,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
) -> None:
    """Say that a session is over, where no site can tell. What its job was is cleared away if the site can be asked."""
    _settle(config, session, Consent(yes=yes, dry_run=dry_run), lambda state: ending(state, reason))


@app.command()
def reconcile(
    system: Annotated[str, typer.Argument(help="name of the system", autocompletion=systems_beginning)],
    dry_run: DryRunOption = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what the launcher would do to bring a system in line with the log. The launcher does it by itself."""

    async def work(broker: Broker, here: Configuration) -> int:
        name = known_system(here, system)
        if not dry_run:
            raise ConfigurationError(
                "the launcher reconciles by itself, every few seconds; to see what it would do, add --dry-run"
            )
        there: Site | Cluster
        if name in here.clouds:
            from services.cloud_launcher.app import cluster_of  # it loads the Kubernetes client, which takes a second

            there = cluster_of(here.clouds[name], here.shared.installation.prefix)
            jobs = pods_at(there)
        else:
            from services.hpc_launcher.app import site_of  # it loads the clients of UNICORE and SSH

            there = site_of(here.systems[name])
            jobs = jobs_at(there, here.shared.installation.prefix)
        try:
            found = await plan(broker.log, here.subjects, name, jobs)
        except PermanentError as error:
            raise TransientError(f"{name} refuses: {error.reason} {error.remedy}") from None
        finally:
            await there.close()
        if as_json:
            print_json(found)
        elif found:
            rows = [(each.what, each.session or each.job, each.why) for each in found]
            print_table(f"{len(found)} differences", ("the launcher would", "session or job", "because"), rows)
        else:
            console.print(f"{system}: it and the log agree", markup=False)
        return 0

    with_broker(config, work)


def _settle(config: ConfigOption, session: str, consent: Consent, act: Callable[[SessionState], SessionAct]) -> None:
    async def work(broker: Broker, here: Configuration) -> int:
        history = find(await LogHistories(broker.log, here.subjects).all(), session)
        asked = act(state_of(history))
        what = type(asked).__name__.removesuffix("Requested").lower()
        preview = [f"{asked.session} on {asked.system}: {what}, by {asked.by}, carried out by {asked.service}"]
        if not agreed(consent, "Is that so?", preview):
            return 0
        hand = Operator(broker.log, here.subjects, stamp_of(here, "operator-cli"))
        console.print(f"{asked.session}: {await ask(hand, asked)}", markup=False, highlight=False, soft_wrap=True)
        return 0

    with_broker(config, work)


def _wanted(user: str, system: str, vo: str, state: str, longer_than: str) -> Wanted:
    return Wanted(
        user=user,
        system=checked(lambda: system_token(system)),
        vo=vo,
        state=state,
        in_state_longer_than=checked(lambda: duration("--longer-than", longer_than)),
    )
