"""What every command stands on: the options they share, the configuration they mean, and how errors are said."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from schemas.subjects import SubjectError
from services._runtime.configuration import ConfigurationError
from services._runtime.connection import Broker, connect
from services._runtime.errors import TransientError
from services._runtime.settings import Configuration, load
from services._runtime.telemetry import configure_logs
from services._runtime.vault import KeyFileError, read_secret_file
from services.operator_cli import bundle, read
from services.operator_cli.histories import BundleHistories, Histories, LogHistories
from services.operator_cli.output import fail
from services.operator_cli.story.history import NoSuchSessionError
from services.operator_cli.supervisor import NotReadyError

DEFAULT_STATE = Path(".farlab")
IMPORTED = DEFAULT_STATE / "imported"
"""Where `farlab import` keeps bundles."""
PATIENCE_SECONDS = 2.0
"""How long a reading command waits for a broker."""

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config", help="farlab.toml; default: $FARLAB_CONFIG, else the one `farlab up` uses, else ./farlab.toml"
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="print JSON for programs")]
StateOption = Annotated[Path, typer.Option("--state", help="folder that keeps everything over restarts")]
BundleOption = Annotated[
    str, typer.Option("--bundle", help="read this bundle, a file or the name it was imported under, and no event log")
]
TokenFileOption = Annotated[Path, typer.Option("--token-file", help="file with a token that may start servers")]

YesOption = Annotated[bool, typer.Option("--yes", "-y", help="do not ask")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="only show what would be done")]

Work = Callable[[], Coroutine[Any, Any, int]]


def configuration_at(given: Path | None) -> Configuration:
    """The configuration a command means. Raises ConfigurationError."""
    if given is not None:
        return load(given)
    if named := os.environ.get("FARLAB_CONFIG"):
        return load(Path(named))
    effective = DEFAULT_STATE / "farlab.toml"
    return load(effective if effective.exists() else Path("farlab.toml"))


def systems_beginning(incomplete: str) -> list[str]:
    """For the shell's completion: the configured systems that begin so. Never raises: a completion says nothing."""
    try:
        return [name for name in configuration_at(None).catalogue if name.startswith(incomplete)]
    except Exception:
        return []


def with_broker(config: Path | None, act: Callable[[Broker, Configuration], Coroutine[Any, Any, int]]) -> None:
    """Runs a command that reads or writes the event log."""

    async def work() -> int:
        configuration = configuration_at(config)
        broker = await connect(_impatient(configuration), "operator-cli")
        try:
            await read.log_is_there(broker, configuration)
            return await act(broker, configuration)
        finally:
            await broker.close()

    run(work)


def with_histories(config: Path | None, named: str, act: Callable[[Histories], Coroutine[Any, Any, int]]) -> None:
    """Runs a command that reads sessions, from the event log or, where one is named, from a bundle."""
    if not named:
        with_broker(config, lambda broker, here: act(LogHistories(broker.log, here.subjects)))
        return

    async def work() -> int:
        imported = IMPORTED / f"{named}{bundle.SUFFIX}"
        return await act(BundleHistories(bundle.read(imported if imported.exists() else Path(named))))

    run(work)


def _impatient(configuration: Configuration) -> Configuration:
    """A person waits, unlike a service that starts before its broker."""
    seconds = min(configuration.shared.nats.connect_seconds, PATIENCE_SECONDS)
    nats = msgspec.structs.replace(configuration.shared.nats, connect_seconds=seconds)
    return msgspec.structs.replace(configuration, shared=msgspec.structs.replace(configuration.shared, nats=nats))


def token_in(file: Path) -> str:
    """The token in a file. Raises ConfigurationError or KeyFileError."""
    if not file.exists():
        raise ConfigurationError(
            f"{file}: no such file; name one that holds a token with --token-file (`farlab up` keeps one in its state "
            "folder, as operator.token)"
        )
    return read_secret_file(file).decode(errors="replace").strip()


def run(work: Work) -> None:
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
