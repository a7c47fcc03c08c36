"""`farlab up`, `check` and `keys`: running Farlab and trying it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from services._runtime.settings import load
from services._runtime.vault import make_keys
from services.operator_cli import read
from services.operator_cli.check import check_hub, run_check
from services.operator_cli.commands.context import (
    DEFAULT_STATE,
    ConfigOption,
    JsonOption,
    StateOption,
    TokenFileOption,
    configuration_at,
    run,
    systems_beginning,
    token_in,
)
from services.operator_cli.output import console, fail
from services.operator_cli.run import run_up

app = typer.Typer()


@app.command()
def up(
    config: Annotated[Path, typer.Option("--config", help="the configuration to run")] = Path("farlab.toml"),
    state: StateOption = DEFAULT_STATE,
    port: Annotated[int, typer.Option("--port", help="where users go; 0 takes a free port")] = 8000,
    check: Annotated[
        bool, typer.Option("--check", help="in a temporary folder: start, probe every system, stop")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Start the whole system on this machine."""

    async def work() -> int:
        source = load(config)
        read.check_sections(source)
        return await (run_check(source, as_json=as_json) if check else run_up(source, state, port))

    run(work)


@app.command()
def check(
    hub: Annotated[str, typer.Option("--hub", help="the hub's address, such as http://127.0.0.1:8000")],
    token_file: TokenFileOption = DEFAULT_STATE / "operator.token",
    user: Annotated[str, typer.Option("--user", help="the user to start servers as")] = "",
    system: Annotated[str, typer.Option("--system", help="only this system", autocompletion=systems_beginning)] = "",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Start, use and stop JupyterLab on every system of a running installation."""
    run(lambda: check_hub(configuration_at(config), hub, token_in(token_file), user, system, as_json=as_json))


@app.command()
def keys(folder: Annotated[Path, typer.Argument(help="the folder of keys")]) -> None:
    """Make the keys that are missing in a folder: sealing keys and keys for event ids."""
    try:
        made = make_keys(folder)
    except OSError as error:
        fail(f"{folder}: cannot be written: {error.strerror}; name a folder of your own")
    console.print(f"made {', '.join(made)}" if made else "all keys are there", markup=False)
