"""`farlab up` and `farlab start`: what they do in order, and what they tell the person who typed them."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from pathlib import Path

import aiohttp

from services._runtime.configuration import ConfigurationError
from services._runtime.errors import TransientError
from services._runtime.settings import Configuration
from services.operator_cli.effective import known_users
from services.operator_cli.emulated_sign_in import emulated
from services.operator_cli.output import console
from services.operator_cli.probe import TROUBLE, Hub, RefusedError, server_path, told
from services.operator_cli.state_folder import StateFolder
from services.operator_cli.up import Installation


async def run_up(source: Configuration, state_folder: Path, port: int) -> int:
    """Runs the whole system until it is told to stop. Raises ConfigurationError or NotReadyError."""
    begun = time.perf_counter()
    state = StateFolder(state_folder)
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stopping.set)

    def say(name: str, what: str) -> None:
        console.print(f"  {name:<16} {what}", markup=False, highlight=False, soft_wrap=True)

    with state.lock():
        installation = Installation(source, state, public_port=port, say=say)
        console.print("Farlab is starting.", markup=False)
        starting = asyncio.create_task(installation.start())
        told_to_stop = asyncio.create_task(stopping.wait())
        try:
            await asyncio.wait({starting, told_to_stop}, return_when=asyncio.FIRST_COMPLETED)
            if starting.done():
                starting.result()
                _welcome(installation, source, state, time.perf_counter() - begun)
                await told_to_stop
            console.print("\nFarlab is stopping.", markup=False)
        finally:
            starting.cancel()
            await asyncio.wait({starting})
            await installation.stop()
        console.print(f"Stopped. Sessions and keys are kept in {state.path}.", markup=False, soft_wrap=True)
    return 0


def _welcome(installation: Installation, source: Configuration, state: StateFolder, seconds: float) -> None:
    users, provider = known_users(source), emulated(source)
    codes = [
        f"{user.name}: {user.second_factor}" for user in (provider.users if provider else []) if user.second_factor
    ]
    lines = [
        f"Ready in {seconds:.1f} s.",
        "",
        f"  Open     {installation.url}",
        f"  Log in   as {' or '.join(users) or 'any user'}, password {state.secret('password')}",
        *([f"  Codes    {', '.join(codes)}, where a second factor is asked for"] if codes else []),
        f"  Logs     {state.path / 'logs'}",
        "  Stop     Ctrl-C",
    ]
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    sys.stdout.flush()


async def start_server(hub_url: str, token: str, user: str, server: str, options: dict[str, object]) -> int:
    """The exit code of `farlab start`.

    Raises ConfigurationError with the hub's own words for a start that cannot be, TransientError where it failed.
    """
    async with aiohttp.ClientSession() as http:
        hub = Hub(hub_url, token, http)
        try:
            await hub.call("POST", server_path(user, server), {"user_options": options}, (201, 202))
        except RefusedError as error:
            raise ConfigurationError(f"not started: {error}") from None
        except TROUBLE as error:
            raise TransientError(f"not started: {told(error)}") from None
    console.print(f"started for {user}; watch it with: farlab timeline {user}/{server}", markup=False, soft_wrap=True)
    return 0
