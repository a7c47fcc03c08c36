"""`python -m emulators.cluster --config FILE`: runs until it is told to stop."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from pathlib import Path

from emulators.cluster.cluster import Cluster
from emulators.cluster.configuration import ClusterConfiguration, load


async def _run(configuration: ClusterConfiguration) -> None:
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    async with Cluster(configuration) as cluster:
        print(f"emulated cluster {configuration.name} at {cluster.url}, see {cluster.kubeconfig}", flush=True)  # noqa: T201
        await stopping.wait()


def main() -> int:
    """Exit code 2 with one line when the configuration is wrong, 1 when the cluster cannot be started."""
    parser = argparse.ArgumentParser(prog="cluster", description=__doc__)
    parser.add_argument("--config", type=Path, required=True)
    try:
        configuration = load(parser.parse_args().config)
    except ValueError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 2
    try:
        asyncio.run(_run(configuration))
    except OSError as error:
        print(f"The emulated cluster cannot start: {error}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
