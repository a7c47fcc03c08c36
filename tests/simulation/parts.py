"""Builds the real services of one process on the simulated broker, site and tunnels. Changes nothing of them."""

from __future__ import annotations

import tempfile
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TypeVar

import msgspec

from schemas.base import HubName
from schemas.subjects import Subjects
from services._runtime.errors import PermanentError
from services._runtime.identity import Stamp
from services._runtime.log import Bucket
from services._runtime.settings import Configuration, Installation, Shared
from services._runtime.systems import DirectReach, System
from services._runtime.vault import Vault, make_keys
from services.accounts.access import AccessBook
from services.accounts.app import AccountsApp
from services.accounts.settings import AccountsSettings, Quota, Waiting
from services.hpc_launcher.app import LauncherApp
from services.hpc_launcher.settings import HpcLauncherSettings
from services.tunneler.app import TunnelerApp
from services.tunneler.settings import TunnelerSettings
from tests.simulation.broker import SimBucket, SimLog
from tests.simulation.hub import Hub
from tests.simulation.process import Process, Running
from tests.simulation.site import SitePort
from tests.simulation.tunnels import SimWays, prover
from tests.support import catalogue

SUBJECTS = Subjects()
KEY = b"0123456789abcdef"
EPOCH = datetime(2026, 11, 23, 12, 0, tzinfo=UTC).timestamp()
Secret = TypeVar("Secret")
WAITING = Waiting()


class PlainVault(Vault):
    """The vault without its cryptography, which costs more than all the rest: what is sealed says for whom."""

    def __init__(self, bucket: Bucket, keys_folder: Path, service: str) -> None:
        self._bucket = bucket
        self._service = service

    def seal(self, recipient: str, secret: object) -> str:
        return f"{recipient}|{msgspec.json.encode(secret).decode()}"

    def unseal(self, sealed: str | bytes, secret_type: type[Secret]) -> Secret:
        recipient, _, plain = (sealed if isinstance(sealed, str) else sealed.decode()).partition("|")
        if recipient != self._service:
            raise PermanentError("sealed-for-another", f"This is for {recipient}.", "")
        return msgspec.json.decode(plain, type=secret_type)


def system() -> System:
    """The one system, with the intervals of a site that is polled often."""
    plain = catalogue.system()
    site = msgspec.structs.replace(plain.site, poll_seconds=2.0, longest_poll_seconds=10.0, lost_after_seconds=60.0)
    reach = DirectReach(networks=["127.30.0.0/24"])
    return msgspec.structs.replace(plain, site=site, reach=reach)


@cache
def configuration() -> Configuration:
    """What the hub bridge reads, in a folder that lasts as long as this process."""
    folder = Path(tempfile.mkdtemp(prefix="farlab-simulation-"))
    make_keys(folder / "keys")
    shared = Shared(installation=Installation(hub=HubName("main")))
    return Configuration(file=folder / "farlab.toml", shared=shared, systems={system().name: system()}, sections={})


def stamp(process: Process, service: str) -> Stamp:
    return Stamp(f"farlab/{service}", KEY, lambda: process.world.clock(process))


def accounts(users: list[str], quotas: list[Quota], waiting: Waiting = WAITING):  # type: ignore[no-untyped-def]
    def boot(process: Process) -> Running:
        settings = AccountsSettings(
            users=[catalogue.user(name) for name in users], quotas=quotas, waiting=waiting, reconcile_seconds=5.0
        )
        systems = {process.world.system.name: process.world.system}
        seal = stamp(process, "accounts")
        book = AccessBook(
            log=SimLog(process),
            bucket=SimBucket(process, "access"),
            subjects=SUBJECTS,
            stamp=seal,
            systems=systems,
            settings=settings,
        )
        return AccountsApp(
            book=book, log=SimLog(process), subjects=SUBJECTS, stamp=seal, systems=systems, settings=settings
        )

    return boot


def launcher(process: Process) -> Running:
    name = process.world.system.name
    return LauncherApp(
        installation="farlab",
        log=SimLog(process),
        leases=SimBucket(process, "leases"),
        vault=PlainVault(SimBucket(process, "vault"), Path(), "hpc-launcher"),
        subjects=SUBJECTS,
        stamp=stamp(process, "hpc-launcher"),
        systems={name: process.world.system},
        sites={name: SitePort(process)},
        settings=HpcLauncherSettings(replica=process.name),
        clock=process.world.loop.time,
    )


def tunneler(process: Process) -> Running:
    name = process.world.system.name
    return TunnelerApp(
        log=SimLog(process),
        leases=SimBucket(process, "leases"),
        vault=PlainVault(SimBucket(process, "vault"), Path(), "tunneler"),
        subjects=SUBJECTS,
        stamp=stamp(process, "tunneler"),
        systems={name: process.world.system},
        ways={name: SimWays(process)},
        prove=prover(process),
        settings=TunnelerSettings(replica=process.name, check_seconds=10.0, unreachable_seconds=60.0),
        now=lambda: process.world.clock(process),
    )


def hub(process: Process) -> Running:
    return Hub(process, configuration(), PlainVault)
