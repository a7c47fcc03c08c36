"""`farlab config`: what the configuration says, and whether it can."""

from __future__ import annotations

import typer

from services.operator_cli import read
from services.operator_cli.commands.context import ConfigOption, configuration_at, run
from services.operator_cli.output import console

app = typer.Typer(help="Configuration.", no_args_is_help=True)


@app.callback()
def config() -> None:
    """Configuration."""


@app.command("check")
def check(config: ConfigOption = None) -> None:
    """Check the configuration, all of it."""

    async def work() -> int:
        configuration = configuration_at(config)
        read.check_sections(configuration)
        systems = ", ".join(configuration.systems)
        console.print(f"{configuration.file}: all is well; systems: {systems}", markup=False, soft_wrap=True)
        return 0

    run(work)
