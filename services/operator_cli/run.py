"""`farlab up`, `farlab check` and `farlab start`: what they do in order."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from pathlib import Path

import aiohttp

from services._runtime.configuration import ConfigurationError
from services._runtime.settings import Configuration, load
from services._runtime.vault import read_secret_file
from services.operator_cli.check import Result, probe_all, report
from services.operator_cli.leftovers import left_behind
from services.operator_cli.output import console, errors
from services.operator_cli.probe import Hub, ProbeError
from services.operator_cli.state_folder import StateFolder
from services.operator_cli.up import Installation


async def run_up(config: Path, state_folder: Path, port: int) -> int:
    """Runs the whole system until it is told to stop."""
    begun = time.perf_counter()
    source = load(config)
    state = StateFolder(state_folder)
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stopping.set)

    def say(name: str, what: str) -> None:
        console.print(f"  {name:<16} {what}", markup=False, highlight=False)

    with state.lock():
        installation = Installation(source, state, public_port=port, say=say)
        console.print("Farlab is starting.", markup=False)
        starting = asyncio.create_task(installation.start())
        told = asyncio.create_task(stopping.wait())
        try:
            await asyncio.wait({starting, told}, return_when=asyncio.FIRST_COMPLETED)
            if starting.done():
                starting.result()
                _welcome(installation, source, state, time.perf_counter() - begun)
                await told
            console.print("\nFarlab is stopping.", markup=False)
        finally:
            starting.cancel()
            await asyncio.wait({starting})
            await installation.stop()
        console.print(f"Stopped. Sessions and keys are kept in {state.path}.", markup=False, soft_wrap=True)
    return 0


def _welcome(installation: Installation, source: Configuration, state: StateFolder, seconds: float) -> None:
    users = [user["name"] for user in source.sections.get("accounts", {}).get("users", [])]
    lines = [
        f"Ready in {seconds:.1f} s.",
        "",
        f"  Open     {installation.url}",
        f"  Log in   as {' or '.join(users) or 'any user'}, password {state.secret('password')}",
        f"  Logs     {state.path / 'logs'}",
        "  Stop     Ctrl-C",
    ]
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    sys.stdout.flush()


async def check_hub(
    configuration: Configuration, hub: str, token_file: Path, user: str, system: str, *, as_json: bool
) -> int:
    """The exit code of `farlab check`."""
    if system and system not in configuration.systems:
        raise ConfigurationError(
            f"--system {system}: there is no such system; there are: {', '.join(configuration.systems)}"
        )
    begun = time.perf_counter()
    result = Result()
    token = _token(token_file)

    def say(line: str) -> None:
        errors.print(line, markup=False, highlight=False, soft_wrap=True)

    before = set(await left_behind_now(configuration))
    await probe_all(result, configuration, hub, token, user, system, say)
    result.problems += [each for each in await left_behind(configuration, ignoring=before) if each not in before]
    result.seconds = round(time.perf_counter() - begun, 2)
    return report(result, as_json=as_json)


async def left_behind_now(configuration: Configuration) -> list[str]:
    """What is there already, before a probe: other people's sessions."""
    return await left_behind(configuration, patience_seconds=0.0)


async def start_server(hub_url: str, token_file: Path, user: str, server: str, options: dict[str, object]) -> int:
    """The exit code of `farlab start`."""
    async with aiohttp.ClientSession() as http:
        hub = Hub(hub_url, _token(token_file), http)
        path = f"hub/api/users/{user}/servers/{server}" if server else f"hub/api/users/{user}/server"
        try:
            await hub.call("POST", path, {"user_options": options}, (201, 202))
        except (ProbeError, aiohttp.ClientError) as error:
            raise ConfigurationError(f"not started: {error}") from None
    console.print(f"started for {user}; watch it with: farlab timeline {user}/{server}", markup=False, soft_wrap=True)
    return 0


def _token(file: Path) -> str:
    return read_secret_file(file).decode().strip()
