"""Runs one service from its command line to its clean end: settings, logs, broker, HTTP, signals. Knows no service."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

import structlog
import uvloop
from aiohttp import web

from services._runtime.configuration import ConfigurationError
from services._runtime.connection import Broker, connect
from services._runtime.errors import TransientError
from services._runtime.http import HttpServer
from services._runtime.identity import Stamp
from services._runtime.lag import meter
from services._runtime.settings import Configuration, load
from services._runtime.tasks import end
from services._runtime.telemetry import configure_logs
from services._runtime.tracing import start_traces
from services._runtime.vault import KeyFileError, Vault, read_secret_file

_log = structlog.get_logger("farlab.service")


class App(Protocol):
    """What a service's `app.build` returns."""

    async def start(self) -> None:
        """Begins to work; returns when the service is ready."""

    async def close(self) -> None:
        """Takes nothing new, finishes or hands back what is in hand, frees what it holds."""

    def problems(self) -> Sequence[str]:
        """Why it is not ready, one line each."""

    def routes(self) -> Sequence[web.RouteDef]:
        """Its own HTTP routes."""


Build = Callable[[Configuration, Broker], App]
ReadSettings = Callable[[Configuration], object]
"""Reads a service's own table of the configuration. Raises ConfigurationError."""

CLOSE_SECONDS = 6.0
"""How long a service may take to finish what is in hand; whoever stops it waits a little longer before it kills."""


def utc_now() -> datetime:
    """The time now, in UTC."""
    return datetime.now(UTC)


def stamp_of(configuration: Configuration, service: str, now: Callable[[], datetime] = utc_now) -> Stamp:
    """The stamp of a service, from its key file. Raises KeyFileError."""
    source = f"{configuration.shared.installation.prefix}/{service}"
    return Stamp(source, read_secret_file(configuration.keys_folder / f"{service}.ids"), now)


def vault_of(configuration: Configuration, broker: Broker, service: str) -> Vault:
    """The vault as a service opens it. Raises KeyFileError."""
    return Vault(broker.vault, configuration.keys_folder, service)


def main(service: str, build: Build, read_settings: ReadSettings, arguments: Sequence[str] | None = None) -> int:
    """The command line of a service: `--config FILE`. Returns the exit code; an error is one line.

    Its settings are read before the broker is asked for anything: what is wrong in the file is said at once.
    """
    parser = argparse.ArgumentParser(prog=f"farlab-{service}", description=f"Farlab's {service}.")
    parser.add_argument("--config", type=Path, default=Path("farlab.toml"), help="farlab.toml (default: here)")
    parser.add_argument("--host", default="127.0.0.1", help="address of /healthz, /readyz, /metrics")
    parser.add_argument("--port", type=int, default=0, help="port of these; 0 takes a free one")
    parser.add_argument("--port-file", type=Path, help="where to write the port once it listens")
    options = parser.parse_args(arguments)
    try:
        configuration = load(options.config)
        read_settings(configuration)
        logs = configuration.shared.logs
        configure_logs(service, level=logs.level, log_format=logs.format)
        send_last_spans = start_traces(configuration.shared.traces, service, configuration.shared.installation.prefix)
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(_run(service, configuration, build, options))
        finally:
            send_last_spans()
    except (ConfigurationError, KeyFileError, TransientError) as error:
        print(f"farlab-{service}: {error}", file=sys.stderr)  # noqa: T201 - for whoever started it
        return 2
    return 0


async def _run(service: str, configuration: Configuration, build: Build, options: argparse.Namespace) -> None:
    stopping, ready = asyncio.Event(), asyncio.Event()
    serving = asyncio.create_task(_serve(service, configuration, build, options, stopping, ready))

    def stop() -> None:
        if not stopping.is_set() and not ready.is_set():
            serving.cancel()  # whatever it waits for, such as a broker, is not wanted any more
        stopping.set()

    for name in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(name, stop)
    try:
        await serving
    except asyncio.CancelledError:
        if not stopping.is_set():
            raise
        _log.info("stopped before it was ready")


async def _serve(
    service: str,
    configuration: Configuration,
    build: Build,
    options: argparse.Namespace,
    stopping: asyncio.Event,
    ready: asyncio.Event,
) -> None:
    async with contextlib.AsyncExitStack() as stack:
        broker = await connect(configuration, service)
        stack.push_async_callback(broker.close)
        app = build(configuration, broker)

        def problems() -> Sequence[str]:
            if not ready.is_set():
                return ["starting"]
            return [*([] if broker.connected else ["the event log does not answer"]), *app.problems()]

        server = HttpServer(problems, host=options.host, port=options.port, routes=app.routes())
        try:
            await server.start()
        except OSError as error:
            reason = error.strerror or str(error)
            raise ConfigurationError(f"--host {options.host} --port {options.port}: {reason}; name another") from None
        stack.push_async_callback(server.close)
        stack.push_async_callback(_within, app.close, CLOSE_SECONDS)
        await app.start()
        ready.set()
        if options.port_file:
            temporary = options.port_file.with_suffix(".new")
            temporary.write_text(str(server.port))
            temporary.replace(options.port_file)
        metering = asyncio.create_task(meter(broker.log, service))
        stack.push_async_callback(end, [metering])
        _log.info("ready", port=server.port)
        await _until_told(stopping, broker)
        _log.info("stopping")


async def _until_told(stopping: asyncio.Event, broker: Broker) -> None:
    """Returns when the service shall stop. Raises TransientError when what it holds in memory is wrong."""
    stop, back = asyncio.create_task(stopping.wait()), asyncio.create_task(broker.log.past_changed())
    try:
        await asyncio.wait([stop, back], return_when=asyncio.FIRST_COMPLETED)
        if not stopping.is_set():
            raise TransientError(
                f"the event log went back to an older state: {back.result()}. What came after it is lost; this service "
                "ends, to be started again on what there is. Was a disk or a backup restored?"
            )
    finally:
        await end([stop, back])


async def _within(close: Callable[[], Awaitable[None]], seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await close()
    except TimeoutError:
        _log.warning("not everything was finished in time; it is redelivered", seconds=seconds)
