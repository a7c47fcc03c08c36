"""`python -m tests.soak.parts SERVICE CONFIG`: a real service whose site, server and tunnel answer at once.

Omits the world: jobs listen as soon as they are started, servers prove whatever is asked. Everything else is the
service's own, on a real broker. What services remember of ended sessions is kept small, so that it is full early and
anything that still grows shows.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import msgspec
import uvloop

from schemas.secrets import ServerProof
from services._launching import waiting
from services._launching.comparison import TaggedJob
from services._runtime import view
from services._runtime.connection import Broker, connect
from services._runtime.errors import TransientError
from services._runtime.service import stamp_of, utc_now, vault_of
from services._runtime.settings import Configuration, load
from services._runtime.telemetry import configure_logs
from services.accounts import build as accounts
from services.hpc_launcher import act, script
from services.hpc_launcher import app as launcher
from services.hpc_launcher.ports import (
    Finished,
    Gone,
    Inert,
    JobDescription,
    JobReport,
    Marks,
    Owner,
    Running,
    installation_word,
    session_of,
)
from services.hpc_launcher.settings import launcher_settings
from services.tunneler import app as tunneler
from services.tunneler.port_forward import DirectWays
from services.tunneler.ports import Address
from services.tunneler.settings import TunnelerSettings

KEPT = 300


class QuickSite:
    """See `ports.Site`: a site that takes no time and forgets what is deleted."""

    def __init__(self) -> None:
        self._jobs: OrderedDict[str, tuple[list[str], Owner, str]] = OrderedDict()
        self._made = 0

    async def find(self, marks: Marks, owner: Owner) -> list[str]:
        return [job for job, (words, of, _) in self._jobs.items() if marks.session_word in words and of == owner]

    async def create(self, description: JobDescription, owner: Owner) -> str:
        self._made += 1
        job = f"job-{self._made}"
        self._jobs[job] = (description.marks.words, owner, "inert")
        return job

    def _turn(self, job: str, phase: str) -> None:
        if job in self._jobs:
            words, owner, _ = self._jobs[job]
            self._jobs[job] = (words, owner, phase)

    async def stage(self, job: str, files: Mapping[str, bytes], owner: Owner) -> None:
        return

    async def start(self, job: str, owner: Owner) -> None:
        self._turn(job, "running")

    async def abort(self, job: str, owner: Owner) -> None:
        self._turn(job, "over")

    async def delete(self, job: str, owner: Owner) -> None:
        self._jobs.pop(job, None)

    async def report(self, job: str, owner: Owner) -> JobReport:
        match self._jobs.get(job, ([], owner, "gone"))[2]:
            case "inert":
                return Inert()
            case "running":
                return Running()
            case "over":
                return Finished(succeeded=True, exit_code=0)
            case _:
                return Gone()

    async def sizes(self, job: str, owner: Owner) -> dict[str, int]:
        return {script.ENDPOINT_FILE: len(ENDPOINT)}

    async def read(self, job: str, name: str, owner: Owner, *, offset: int, length: int) -> bytes:
        return ENDPOINT[offset : offset + length]

    async def tagged_jobs(self, installation: str, owner: Owner, known: Collection[str]) -> Sequence[TaggedJob]:
        word = installation_word(installation)
        return [
            TaggedJob(job, session_of(words))
            for job, (words, of, _) in self._jobs.items()
            if word in words and of == owner and job not in known
        ]

    async def certificate(self, *, fresh: bool = False) -> str:
        raise TransientError("no certificate here")

    def troubles(self) -> Sequence[str]:
        return []

    async def close(self) -> None:
        return


ENDPOINT = msgspec.json.encode({"host": "127.30.0.21", "port": 50_000})


async def believe(address: Address, base_url: str, proof: ServerProof) -> None:
    """See `ports.Prove`: every server is the right one."""


def build(service: str, configuration: Configuration, broker: Broker) -> launcher.LauncherApp | object:
    match service:
        case "accounts":
            return accounts.build(configuration, broker)
        case "hpc-launcher":
            return launcher.LauncherApp(
                installation="farlab",
                log=broker.log,
                leases=broker.leases,
                vault=vault_of(configuration, broker, service),
                subjects=configuration.subjects,
                stamp=stamp_of(configuration, service),
                systems=configuration.systems,
                sites={name: QuickSite() for name in configuration.systems},
                settings=launcher_settings(configuration),
            )
        case _:
            return tunneler.TunnelerApp(
                log=broker.log,
                leases=broker.leases,
                vault=vault_of(configuration, broker, service),
                subjects=configuration.subjects,
                stamp=stamp_of(configuration, service),
                systems=configuration.systems,
                ways={name: DirectWays() for name in configuration.systems},
                prove=believe,
                settings=TunnelerSettings(replica="one"),
                now=utc_now,
            )


async def run(service: str, file: Path) -> None:
    """Runs the service until it is told to stop; prints `ready` when it is."""
    configuration = load(file)
    configure_logs(service, level="error")
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    broker = await connect(configuration, service)
    app = build(service, configuration, broker)
    await app.start()  # type: ignore[attr-defined]
    print("ready", flush=True)
    await stopping.wait()
    await app.close()  # type: ignore[attr-defined]
    await broker.close()


if __name__ == "__main__":
    view.ENDED_KEPT = act.CLEARED_KEPT = waiting.TOLD_KEPT = KEPT
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run(sys.argv[1], Path(sys.argv[2])))
