"""`python -m emulators.identity_provider --config FILE`: runs until it is told to stop."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from pathlib import Path

from emulators.identity_provider.configuration import ProviderConfiguration, load
from emulators.identity_provider.provider import IdentityProvider


async def _run(configuration: ProviderConfiguration) -> None:
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    async with IdentityProvider(configuration) as provider:
        print(f"emulated identity provider at {provider.issuer}", flush=True)  # noqa: T201
        await stopping.wait()


def main() -> int:
    """Exit code 2 with one line when the configuration is wrong."""
    parser = argparse.ArgumentParser(prog="identity_provider", description=__doc__)
    parser.add_argument("--config", type=Path, required=True)
    try:
        configuration = load(parser.parse_args().config)
    except ValueError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 2
    asyncio.run(_run(configuration))
    return 0


if __name__ == "__main__":
    sys.exit(main())
