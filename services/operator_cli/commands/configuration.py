"""`farlab config`: what the configuration says, and whether it can."""

from __future__ import annotations

from typing import Annotated

import typer

from services.operator_cli import read
from services.operator_cli.commands.context import ConfigOption, JsonOption, configuration_at, run
from services.operator_cli.output import console, print_json, print_table
from services.operator_cli.set_up.reach import Finding, findings

app = typer.Typer(help="Configuration.", no_args_is_help=True)


@app.callback()
def config() -> None:
    """Configuration."""


@app.command("check")
def check(
    config: ConfigOption = None,
    reach: Annotated[
        bool, typer.Option("--reach", help="also ask NATS, sites and login nodes, and look at keys")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Check the configuration, all of it."""

    async def work() -> int:
        configuration = configuration_at(config)
        read.check_sections(configuration)
        if reach:
            return _said(await findings(configuration), as_json=as_json)
        if as_json:
            print_json({"file": str(configuration.file), "systems": list(configuration.catalogue)})
            return 0
        systems = ", ".join(configuration.catalogue)
        console.print(f"{configuration.file}: all is well; systems: {systems}", markup=False, soft_wrap=True)
        return 0

    run(work)


def _said(found: list[Finding], *, as_json: bool) -> int:
    """Prints what was found; the exit code."""
    if as_json:
        print_json(found)
    else:
        rows = [(each.asked, each.problem or "well") for each in found]
        print_table(f"{len(found)} questions", ("asked", "answer"), rows)
    return 1 if any(each.problem for each in found) else 0
