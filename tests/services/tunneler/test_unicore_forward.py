"""A tunneler that leads through an emulated UNICORE/X to the server of a job: ready when proved, gone at the end."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest

from schemas.lifecycle import Reachable, SessionState
from schemas.secrets import HmacProof
from schemas.session import SessionEvent
from schemas.subjects import Subjects
from services._runtime.memory import MemoryBucket, MemoryLog
from services._runtime.systems import UnicoreReach
from services._runtime.vault import Vault, make_keys
from services._runtime.view import placed
from services.hpc_launcher.app import site_of
from services.hpc_launcher.ports import Owner
from services.tunneler.app import TunnelerApp
from services.tunneler.listening import PortRange
from services.tunneler.ports import Address
from services.tunneler.proof import prove
from services.tunneler.settings import TunnelerSettings
from services.tunneler.stream_forward import StreamWays
from services.tunneler.unicore_forward import UnicoreSide
from tests.services.hpc_launcher.stage import emulated_site, system_at
from tests.services.hpc_launcher.test_unicore import described
from tests.support.proving_server import proving_server
from tests.support.samples import NOW, Story, stamp

KEY = "ab" * 32
SUBJECTS = Subjects()


async def test_a_tunnel_through_the_site_is_proved_and_closed_at_the_end(tmp_path: Path) -> None:
    async with emulated_site(tmp_path) as (site, key), proving_server("127.30.0.61", KEY) as server:
        system = msgspec.structs.replace(system_at(site, key), reach=UnicoreReach(networks=["127.30.0.0/24"]))
        launcher = site_of(system)
        owner = Owner("CN=Ada", "ada1", "ztrain")
        job = await launcher.create(described("sleep 60"), owner)
        await launcher.start(job, owner)
        log, bucket = MemoryLog(), MemoryBucket()
        make_keys(tmp_path / "keys")
        app = TunnelerApp(
            log=log,
            leases=MemoryBucket(),
            vault=Vault(bucket, tmp_path / "keys", "tunneler"),
            subjects=SUBJECTS,
            stamp=stamp("tunneler-one"),
            systems={system.name: system},
            ways={system.name: StreamWays(UnicoreSide(system.site), PortRange("127.0.0.1", (0, 0)))},
            prove=prove,
            settings=TunnelerSettings(replica="one", check_seconds=0.2, reconcile_seconds=0.1),
            now=lambda: NOW,
        )
        await app.start()
        story = Story()
        await Vault(bucket, tmp_path / "keys", "hub-bridge").put(story.session, "tunneler", HmacProof(key=KEY))

        async def state() -> SessionState:
            return placed(await log.history("SESSIONS", SUBJECTS.session(story.session))).state

        async def say(*events: SessionEvent) -> None:
            for event in events:
                scope = SUBJECTS.session(story.session)
                history = await log.history("SESSIONS", scope)
                after = history[-1].sequence if history else 0
                stamped = stamp("others")(event, after=after, cause=None)
                await log.append("SESSIONS", SUBJECTS.session_event(stamped), stamped, scope=scope, after=after)

        await say(story.requested(), story.admitted(), story.created(job), story.submitted())
        await say(story.listening(server.host, server.port))
        async with asyncio.timeout(15):
            while not isinstance(reached := await state(), Reachable):
                await asyncio.sleep(0.01)
        assert reached.tunnel.via == "unicore"
        await prove(address_of(reached), "/user/ada/", HmacProof(key=KEY))
        await say(story.stop(), story.ended())
        await log.settled()
        await app.close()
        await launcher.delete(job, owner)
        await launcher.close()
        with pytest.raises(OSError, match="Connect call failed"):
            await asyncio.open_connection(reached.tunnel.host, reached.tunnel.port)


def address_of(reached: Reachable) -> Address:
    return Address(reached.tunnel.host, reached.tunnel.port)
