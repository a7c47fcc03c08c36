"""The command `farlab`."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
import typer

from schemas.subjects import SubjectError
from services._runtime.configuration import ConfigurationError
from services._runtime.connection import Broker, connect
from services._runtime.errors import TransientError
from services._runtime.service import utc_now
from services._runtime.settings import Configuration, load
from services._runtime.telemetry import configure_logs
from services._runtime.vault import KeyFileError, make_keys, read_secret_file
from services.operator_cli import read
from services.operator_cli.check import check_hub, run_check
from services.operator_cli.output import console, fail
from services.operator_cli.run import run_up, start_server
from services.operator_cli.sessions import NoSuchSessionError
from services.operator_cli.supervisor import NotReadyError

Answer = TypeVar("Answer")
DEFAULT_STATE = Path(".farlab")
PATIENCE_SECONDS = 2.0
"""How long a reading command waits for a broker."""

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

    async def run() -> int:
        source = load(config)
        read.check_sections(source)
        return await (run_check(source, as_json=as_json) if check else run_up(source, state, port))

    _run(run)


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
    _run(lambda: check_hub(_configuration(config), hub, _token(token_file), user, system, as_json=as_json))


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
    session: Annotated[str, typer.Option(help="only of this session, or of those whose ids begin so")] = "",
    since: Annotated[str, typer.Option(help="only from then on: 10m, 2h, or a time such as 2026-11-23T12:00")] = "",
    as_json: JsonOption = False,
) -> None:
    """Print events of the log."""
    try:
        moment = read.since(since, utc_now())
    except ConfigurationError as error:
        fail(str(error))
    _with_broker(
        config,
        lambda broker, here: read.events(
            broker, here, event_type, system, session, since=moment, follow=follow, as_json=as_json
        ),
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
    _run(lambda: start_server(hub, _token(token_file), user, server, options))


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
    try:
        made = make_keys(folder)
    except OSError as error:
        fail(f"{folder}: cannot be written: {error.strerror}; name a folder of your own")
    console.print(f"made {', '.join(made)}" if made else "all keys are there", markup=False)


@config_app.command("check")
def config_check(config: ConfigOption = None) -> None:
    """Check the configuration, all of it."""

    async def run() -> int:
        configuration = _configuration(config)
        read.check_sections(configuration)
        systems = ", ".join(configuration.systems)
        console.print(f"{configuration.file}: all is well; systems: {systems}", markup=False, soft_wrap=True)
        return 0

    _run(run)


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
        broker = await connect(_impatient(configuration), "operator-cli")
        try:
            await read.log_is_there(broker, configuration)
            return await act(broker, configuration)
        finally:
            await broker.close()

    _run(run)


def _impatient(configuration: Configuration) -> Configuration:
    """A person waits, unlike a service that starts before its broker."""
    seconds = min(configuration.shared.nats.connect_seconds, PATIENCE_SECONDS)
    nats = msgspec.structs.replace(configuration.shared.nats, connect_seconds=seconds)
    return msgspec.structs.replace(configuration, shared=msgspec.structs.replace(configuration.shared, nats=nats))


def _token(file: Path) -> str:
    if not file.exists():
        raise ConfigurationError(
            f"{file}: no such file; name one that holds a token with --token-file (`farlab up` keeps one in its state "
            "folder, as operator.token)"
        )
    return read_secret_file(file).decode(errors="replace").strip()


def _run(work: Callable[[], Coroutine[Any, Any, int]]) -> None:
    """Runs a command; its errors are one line each, and its return value the exit code."""
    configure_logs("operator-cli", level="warning", log_format="terminal")
    try:
        code = asyncio.run(work())
    except (ConfigurationError, KeyFileError, NoSuchSessionError, SubjectError) as error:
        fail(str(error))
    except (TransientError, NotReadyError) as error:
        fail(str(error), 1)
    except (KeyboardInterrupt, asyncio.CancelledError):
        raise typer.Exit(130) from None
    except BrokenPipeError:
        raise typer.Exit(0) from None  # whoever read the output has seen enough
    except Exception as error:
        if "FARLAB_DEBUG" in os.environ:
            raise
        fail(f"unexpected {type(error).__name__}: {error}; set FARLAB_DEBUG=1 to see where it comes from", 1)
    if code:
        raise typer.Exit(code)


def main() -> None:
    """The entry point `farlab`."""
    app()


if __name__ == "__main__":
    main()
