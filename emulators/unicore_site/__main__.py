"""`python -m emulators.unicore_site --config FILE`: runs until it is told to stop."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from pathlib import Path

from emulators.unicore_site.configuration import SiteConfiguration, load
from emulators.unicore_site.site import UnicoreSite


async def _run(configuration: SiteConfiguration) -> None:
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    async with UnicoreSite(configuration, crash=lambda: os.kill(os.getpid(), signal.SIGKILL)) as site:
        print(f"emulated UNICORE site {configuration.name} at {site.base_url}", flush=True)  # noqa: T201
        await stopping.wait()


def main() -> int:
    """Exit code 2 with one line when the configuration is wrong, 1 when the site cannot be started."""
    parser = argparse.ArgumentParser(prog="unicore_site", description=__doc__)
    parser.add_argument("--config", type=Path, required=True)
    try:
        configuration = load(parser.parse_args().config)
    except ValueError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 2
    try:
        asyncio.run(_run(configuration))
    except OSError as error:
        print(f"The emulated site cannot start: {error}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
