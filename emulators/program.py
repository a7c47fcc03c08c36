"""An emulator as a program: reads its one file, runs until it is told to stop, says in one line what is wrong."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TypeVar

Configuration = TypeVar("Configuration")
Emulator = TypeVar("Emulator")


def run(
    what: str,
    load: Callable[[Path], Configuration],
    emulator: Callable[[Configuration], AbstractAsyncContextManager[Emulator]],
    there: Callable[[Emulator], str],
) -> int:
    """Runs `what`, says where it is `there`, until SIGTERM or SIGINT.

    Exit code 2 with one line when the configuration is wrong, 1 when it cannot be started.
    """
    parser = argparse.ArgumentParser(description=f"Runs an emulated {what} until it is told to stop.")
    parser.add_argument("--config", type=Path, required=True)
    try:
        configuration = load(parser.parse_args().config)
    except ValueError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 2
    try:
        asyncio.run(_until_told(what, emulator(configuration), there))
    except OSError as error:
        print(f"The emulated {what} cannot start: {error}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


async def _until_told(
    what: str, emulator: AbstractAsyncContextManager[Emulator], there: Callable[[Emulator], str]
) -> None:
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    async with emulator as running:
        print(f"emulated {what} {there(running)}", flush=True)  # noqa: T201
        await stopping.wait()
