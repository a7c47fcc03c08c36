"""`farlab vault`: which sealed secrets there are, by name only, and purging them."""

from __future__ import annotations

from typing import Annotated

import typer

from schemas.base import SessionId
from services._runtime.connection import Broker
from services._runtime.service import stamp_of
from services._runtime.settings import Configuration
from services._runtime.view import SessionView
from services.operator_cli.acts import vault
from services.operator_cli.acts.append import Operator
from services.operator_cli.acts.consent import Consent, agreed
from services.operator_cli.acts.vault import Entry
from services.operator_cli.commands.context import ConfigOption, DryRunOption, JsonOption, YesOption, with_broker
from services.operator_cli.output import console, print_json, print_table

app = typer.Typer(help="Sealed secrets, by name.", no_args_is_help=True)


@app.command("list")
def list_entries(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """List the names of sealed secrets."""

    async def work(broker: Broker, here: Configuration) -> int:
        found = await _entries(broker, here)
        if as_json:
            print_json(found)
            return 0
        rows = [(each.name, each.recipient, each.standing) for each in found]
        print_table(f"{len(rows)} sealed secrets", ("name", "for", "session"), rows)
        return 0

    with_broker(config, work)


@app.command()
def purge(
    reason: Annotated[str, typer.Option(help="why")],
    names: Annotated[list[str] | None, typer.Argument(help="names of entries, or sessions")] = None,
    ended: Annotated[bool, typer.Option("--ended", help="all of sessions that have ended")] = False,
    config: ConfigOption = None,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
) -> None:
    """Take sealed secrets out of the vault, for good. A live session without its secrets cannot start or be proved."""

    async def work(broker: Broker, here: Configuration) -> int:
        found = vault.chosen(await _entries(broker, here), names or [], ended=ended)
        preview = [f"{each.name} ({each.standing})" for each in found]
        if not found:
            console.print("There is nothing to purge.", markup=False)
        elif agreed(Consent(yes=yes, dry_run=dry_run), f"Purge {len(found)} sealed secrets for good?", preview):
            hand = Operator(broker.log, here.subjects, stamp_of(here, "operator-cli"))
            await vault.purge(hand, broker.vault, found, reason)
            console.print(f"{len(found)} sealed secrets are gone", markup=False)
        return 0

    with_broker(config, work)


async def _entries(broker: Broker, here: Configuration) -> list[Entry]:
    view = SessionView()
    following = await view.follow(broker.log, [here.subjects.sessions()])
    await following.close()
    names = await broker.vault.keys()
    sessions = {SessionId(name.rpartition(".")[0]) for name in names}
    return vault.entries(names, {each: known.state for each in sessions if (known := view.get(each)) is not None})
