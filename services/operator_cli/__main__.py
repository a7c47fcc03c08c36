"""The command `farlab`."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from schemas.subjects import SubjectError
from services._runtime.configuration import ConfigurationError
from services._runtime.connection import Broker, connect
from services._runtime.errors import TransientError
from services._runtime.settings import Configuration, load
from services._runtime.vault import KeyFileError, make_keys
from services.operator_cli import read
from services.operator_cli.check import run_check
from services.operator_cli.output import console, fail
from services.operator_cli.run import check_hub, run_up, start_server
from services.operator_cli.sessions import NoSuchSessionError
from services.operator_cli.supervisor import NotReadyError

Answer = TypeVar("Answer")
DEFAULT_STATE = Path(".farlab")

app = typer.Typer(
    name="farlab",
    help="Run and watch Farlab: JupyterLab on supercomputers and clouds.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=True,
)
config_app = typer.Typer(help="Configuration.", no_args_is_help=True)
app.add_typer(config_app, name="config")

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config", help="farlab.toml; default: $FARLAB_CONFIG, else the one `farlab up` uses, else ./farlab.toml"
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="print JSON for programs")]
StateOption = Annotated[Path, typer.Option("--state", help="folder that keeps everything over restarts")]


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
    _run(lambda: run_check(config, as_json=as_json) if check else run_up(config, state, port))


@app.command()
def check(
    hub: Annotated[str, typer.Option("--hub", help="the hub's address, such as http://127.0.0.1:8000")],
    token_file: Annotated[Path, typer.Option("--token-file", help="file with a token that may start servers")] = (
        DEFAULT_STATE / "operator.token"
    ),
    user: Annotated[str, typer.Option("--user", help="the user to start servers as")] = "",
    system: Annotated[str, typer.Option("--system", help="only this system")] = "",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Start, use and stop JupyterLab on every system of a running installation."""
    _run(lambda: check_hub(_configuration(config), hub, token_file, user, system, as_json=as_json))


@app.command()
def sessions(
    config: ConfigOption = None,
    user: Annotated[str, typer.Option(help="only of this user")] = "",
    system: Annotated[str, typer.Option(help="only on this system")] = "",
    live: Annotated[bool, typer.Option("--live", help="only those that have not ended")] = False,
    as_json: JsonOption = False,
) -> None:
    """List sessions."""
    _with_broker(config, lambda broker, here: read.sessions(broker, here, user, system, live=live, as_json=as_json))


@app.command()
def timeline(
    session: Annotated[str, typer.Argument(help="session id, part of one, or USER/SERVER")],
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Tell the story of one session."""
    _with_broker(config, lambda broker, here: read.timeline(broker, here, session, as_json=as_json))


@app.command()
def events(
    config: ConfigOption = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="go on with what comes")] = False,
    event_type: Annotated[str, typer.Option("--type", help="only this type, such as job-created")] = "",
    system: Annotated[str, typer.Option(help="only on this system")] = "",
    session: Annotated[str, typer.Option(help="only of this session")] = "",
    as_json: JsonOption = False,
) -> None:
    """Print events of the log."""
    _with_broker(
        config,
        lambda broker, here: read.events(broker, here, event_type, system, session, follow=follow, as_json=as_json),
    )


@app.command()
def start(
    user: Annotated[str, typer.Argument(help="whose server")],
    system: Annotated[str, typer.Option(help="where")],
    account: Annotated[str, typer.Option(help="as which account")],
    project: Annotated[str, typer.Option(help="who pays")],
    partition: Annotated[str, typer.Option(help="which partition")],
    runtime_minutes: Annotated[int, typer.Option("--runtime", help="minutes")] = 60,
    server: Annotated[str, typer.Option(help="name of the server; default: the user's default server")] = "",
    hub: Annotated[str, typer.Option("--hub", help="the hub's address")] = "http://127.0.0.1:8000",
    token_file: Annotated[Path, typer.Option("--token-file", help="file with a token that may start servers")] = (
        DEFAULT_STATE / "operator.token"
    ),
) -> None:
    """Start a user's server through the hub."""
    options = {
        "system": system,
        "account": account,
        "project": project,
        "partition": partition,
        "runtime_minutes": runtime_minutes,
    }
    _run(lambda: start_server(hub, token_file, user, server, options))


@app.command()
def stop(
    session: Annotated[str, typer.Argument(help="session id, part of one, or USER/SERVER")],
    reason: Annotated[str, typer.Option(help="why; the user sees it")],
    config: ConfigOption = None,
) -> None:
    """Ask for a session's end."""
    _with_broker(config, lambda broker, here: read.stop(broker, here, session, reason))


@app.command()
def keys(folder: Annotated[Path, typer.Argument(help="the folder of keys")]) -> None:
    """Make the keys that are missing in a folder: sealing keys and keys for event ids."""
    made = make_keys(folder)
    console.print(f"made {', '.join(made)}" if made else "all keys are there", markup=False)


@config_app.command("check")
def config_check(config: ConfigOption = None) -> None:
    """Check the configuration, all of it."""
    configuration = _configuration(config)
    read.check_sections(configuration)
    systems = ", ".join(configuration.systems)
    console.print(f"{configuration.file}: all is well; systems: {systems}", markup=False, soft_wrap=True)


def _configuration(given: Path | None) -> Configuration:
    if given is not None:
        return load(given)
    if named := os.environ.get("FARLAB_CONFIG"):
        return load(Path(named))
    effective = DEFAULT_STATE / "farlab.toml"
    return load(effective if effective.exists() else Path("farlab.toml"))


def _with_broker(config: Path | None, act: Callable[[Broker, Configuration], Coroutine[Any, Any, int]]) -> None:
    async def run() -> int:
        configuration = _configuration(config)
        broker = await connect(configuration, "operator-cli")
        try:
            return await act(broker, configuration)
        finally:
            await broker.close()

    _run(run)


def _run(work: Callable[[], Coroutine[Any, Any, int]]) -> None:
    """Runs a command; its errors are one line each, and its return value the exit code."""
    try:
        code = asyncio.run(work())
    except (ConfigurationError, KeyFileError, NoSuchSessionError, SubjectError) as error:
        fail(str(error))
    except (TransientError, NotReadyError) as error:
        fail(str(error), 1)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    if code:
        raise typer.Exit(code)


def main() -> None:
    """The entry point `farlab`."""
    try:
        app()
    except (ConfigurationError, KeyFileError) as error:
        sys.stderr.write(f"farlab: {error}\n")
        sys.exit(2)


if __name__ == "__main__":
    main()
