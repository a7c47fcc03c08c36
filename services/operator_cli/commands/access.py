"""`farlab access` and `farlab vo`: who may use what, and why. Changes nothing."""

from __future__ import annotations

from typing import Annotated

import typer

from services.operator_cli import rights
from services.operator_cli.commands.context import ConfigOption, JsonOption, configuration_at, run, with_broker

access_app = typer.Typer(help="Who may use what.", no_args_is_help=True)
vo_app = typer.Typer(help="Virtual organisations.", no_args_is_help=True)


@access_app.callback()
def access() -> None:
    """Who may use what."""


@access_app.command("show")
def show(
    user: Annotated[str, typer.Argument(help="the user, as JupyterHub knows it")],
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what a user may use, when and why it changed last, and which rights could not be read."""
    with_broker(config, lambda broker, here: rights.show(broker, here, user, as_json=as_json))


@vo_app.command("list")
def list_organisations(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """List the configured virtual organisations."""

    async def work() -> int:
        return rights.list_organisations(configuration_at(config), as_json=as_json)

    run(work)


@vo_app.command("show")
def show_organisation(
    name: Annotated[str, typer.Argument(help="the organisation")],
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show a virtual organisation and who is known to be in it."""
    with_broker(config, lambda broker, here: rights.show_organisation(broker, here, name, as_json=as_json))
