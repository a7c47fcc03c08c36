"""The tunneler on the log in memory and a real SSH server: ready when proved, lost when broken, taken over."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from emulators.login_node.node import LoginNode
from schemas.base import SessionId, SystemName
from schemas.lifecycle import Ended, Interrupted, Reachable, Ready, SessionState, Stopping
from schemas.secrets import HmacProof
from schemas.session import SessionEvent
from schemas.subjects import Subjects
from services._runtime.memory import MemoryBucket, MemoryLog
from services._runtime.systems import SshReach
from services._runtime.vault import Vault, make_keys
from services._runtime.view import Placed, placed
from services.tunneler.app import TunnelerApp
from services.tunneler.listening import PortRange
from services.tunneler.port_forward import LocalForward, SshWays
from services.tunneler.ports import Address, Target, Ways
from services.tunneler.proof import prove
from services.tunneler.settings import TunnelerSettings
from tests.support.catalogue import system
from tests.support.proving_server import ProvingServer, proving_server
from tests.support.samples import NOW, Story, stamp
from tests.support.site import login_node

KEY = "ab" * 32
SUBJECTS = Subjects()
NAME = SystemName("demo-hpc")


class Installation:
    """A log, a vault, a login node and a server that proves itself."""

    def __init__(self, folder: Path, node: LoginNode, server: ProvingServer) -> None:
        self.folder, self.node, self.server = folder, node, server
        self.log = MemoryLog()
        self.leases, self.vault_bucket = MemoryBucket(), MemoryBucket()
        make_keys(folder / "keys")
        (folder / "known_hosts").write_text(node.known_hosts)
        self.hub_vault = Vault(self.vault_bucket, folder / "keys", "hub-bridge")

    def reach(self) -> SshReach:
        return SshReach(
            login_nodes=[f"{self.node.configuration.host}:{self.node.port}"],
            user="farlab",
            key_file=str(self.folder / "id_ed25519"),
            known_hosts_file=str(self.folder / "known_hosts"),
            networks=["127.30.0.0/24"],
        )

    def tunneler(self, replica: str = "one", ways: Ways | None = None, **settings: float) -> TunnelerApp:
        reach = self.reach()
        chosen = TunnelerSettings(replica=replica, **{"check_seconds": 0.2, "reconcile_seconds": 0.1, **settings})  # type: ignore[arg-type]
        return TunnelerApp(
            log=self.log,
            leases=self.leases,
            vault=Vault(self.vault_bucket, self.folder / "keys", "tunneler"),
            subjects=SUBJECTS,
            stamp=stamp(f"tunneler-{replica}"),
            systems={NAME: msgspec.structs.replace(system(), reach=reach)},
            ways={NAME: ways or SshWays(reach, PortRange("127.0.0.1", (0, 0)))},
            prove=prove,
            settings=chosen,
            now=lambda: NOW,
        )

    async def listening(self, story: Story, port: int = 0) -> None:
        await self.hub_vault.put(story.session, "tunneler", HmacProof(key=KEY))
        for event in (
            story.requested(),
            story.admitted(),
            story.created(),
            story.submitted(),
            story.listening(self.server.host, port or self.server.port),
        ):
            await self.append(event)

    async def append(self, event: SessionEvent) -> None:
        scope = SUBJECTS.session(event.session)
        history = await self.log.history("SESSIONS", scope)
        after = history[-1].sequence if history else 0
        stamped = stamp("others")(event, after=after, cause=None)
        await self.log.append("SESSIONS", SUBJECTS.session_event(stamped), stamped, scope=scope, after=after)

    async def state(self, session: SessionId) -> SessionState:
        return placed(await self.log.history("SESSIONS", SUBJECTS.session(session))).state

    async def until(self, session: SessionId, condition: Callable[[SessionState], bool]) -> SessionState:
        async with asyncio.timeout(15):
            while not condition(state := await self.state(session)):
                await asyncio.sleep(0.01)
        return state


class SlowWays(SshWays):
    """Ways that are opened when `gate` is set."""

    def __init__(self, reach: SshReach) -> None:
        super().__init__(reach, PortRange("127.0.0.1", (0, 0)))
        self.asked, self.gate = asyncio.Event(), asyncio.Event()
        self.opened: list[Address] = []

    async def open(self, session: SessionId, target: Target, wanted_port: int) -> LocalForward:
        self.asked.set()
        await self.gate.wait()
        way = await super().open(session, target, wanted_port)
        self.opened.append(way.address)
        return way


async def answers(address: Address) -> bool:
    """Whether somebody listens there."""
    try:
        _, writer = await asyncio.open_connection(address.host, address.port)
    except OSError:
        return False
    writer.close()
    return True


@asynccontextmanager
async def installation(folder: Path) -> AsyncIterator[Installation]:
    async with login_node(folder) as node, proving_server("127.30.0.21", KEY) as server:
        yield Installation(folder, node, server)


async def test_a_tunnel_is_ready_once_it_is_proved_and_gone_at_the_end(tmp_path: Path) -> None:
    async with installation(tmp_path) as here:
        app, story = here.tunneler(), Story()
        await app.start()
        await here.listening(story)
        state = await here.until(story.session, lambda state: isinstance(state, Reachable))
        assert isinstance(state, Reachable)
        assert (state.tunnel.generation, state.tunnel.replica) == (1, "one")
        reader, writer = await asyncio.open_connection(state.tunnel.host, state.tunnel.port)
        await here.append(story.stop())
        await here.append(story.ended())
        async with asyncio.timeout(5):
            assert await reader.read() == b""
        writer.close()
        with pytest.raises(OSError, match="Connect call failed"):
            await asyncio.open_connection(state.tunnel.host, state.tunnel.port)
        await app.close()


async def test_a_broken_path_is_lost_and_ready_again_with_the_next_generation(tmp_path: Path) -> None:
    async with installation(tmp_path) as here:
        app, story = here.tunneler(), Story()
        await app.start()
        await here.listening(story)
        await here.until(story.session, lambda state: isinstance(state, Reachable))
        await here.append(story.ready())
        await here.server.stop()
        await here.until(story.session, lambda state: isinstance(state, Interrupted))
        await here.server.start()
        here.log.redeliver("tunneler")
        state = await here.until(story.session, lambda state: isinstance(state, Ready) and state.tunnel.generation == 2)
        assert isinstance(state, Ready)
        await app.close()


async def test_an_announced_address_outside_the_system_stops_the_session_with_the_reason(tmp_path: Path) -> None:
    async with installation(tmp_path) as here:
        app, story = here.tunneler(), Story()
        here.server.host = "10.9.8.7"
        await app.start()
        await here.listening(story)
        state = await here.until(story.session, lambda state: isinstance(state, Stopping))
        assert isinstance(state, Stopping)
        assert "10.9.8.7 is outside the system's networks" in state.stop.reason
        assert here.node.opened == 0
        await app.close()


async def test_the_tunnels_of_a_dead_replica_are_taken_over_and_of_a_living_one_left_alone(tmp_path: Path) -> None:
    async with installation(tmp_path) as here:
        one, two, story = here.tunneler("one"), here.tunneler("two"), Story()
        await one.start()
        await here.listening(story)
        first = await here.until(story.session, lambda state: isinstance(state, Reachable))
        await two.start()
        await one.close()
        state = await here.until(
            story.session, lambda state: isinstance(state, Reachable) and state.tunnel.replica == "two"
        )
        assert isinstance(state, Reachable)
        assert state.tunnel.generation == 2
        assert isinstance(first, Reachable)
        assert state.tunnel.port == first.tunnel.port
        await two.close()


async def test_a_replica_that_starts_again_restores_its_tunnel_on_the_same_port(tmp_path: Path) -> None:
    async with installation(tmp_path) as here:
        story, app = Story(), here.tunneler()
        await app.start()
        await here.listening(story)
        before = await here.until(story.session, lambda state: isinstance(state, Reachable))
        assert isinstance(before, Reachable)
        await app.close()
        again = here.tunneler()
        await again.start()
        async with asyncio.timeout(10):
            while True:
                try:
                    _, writer = await asyncio.open_connection(before.tunnel.host, before.tunnel.port)
                except OSError:
                    await asyncio.sleep(0.01)
                else:
                    writer.close()
                    break
        assert await here.state(story.session) == before
        await here.append(story.stop())
        await here.append(story.ended())
        assert isinstance(await here.state(story.session), Ended)
        await again.close()


def test_a_tunneler_without_such_clouds_loads_no_kubernetes_client() -> None:
    asked = "import sys, services.tunneler.app; print('kubernetes' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "False\n"


async def test_a_way_that_opens_when_its_session_is_over_is_closed_again(tmp_path: Path) -> None:
    async with installation(tmp_path) as here:
        story, ways = Story(), SlowWays(here.reach())
        app = here.tunneler(ways=ways)
        await app.start()
        await here.listening(story, port=1025)  # nothing answers there, so that no fact tells of the way
        await asyncio.wait_for(ways.asked.wait(), 10)
        await here.append(story.stop())
        await here.append(story.ended())
        async with asyncio.timeout(5):
            while not isinstance(known := app.sessions.view.get(story.session), Placed) or not (
                isinstance(known.state, Ended)
            ):
                await asyncio.sleep(0.01)
        ways.gate.set()
        async with asyncio.timeout(10):
            while not ways.opened or await answers(ways.opened[0]):
                await asyncio.sleep(0.01)
        await app.close()


async def test_a_way_at_another_address_than_the_hub_was_told_is_lost_and_told_anew(tmp_path: Path) -> None:
    async with installation(tmp_path) as here:
        story, ways = Story(), SlowWays(here.reach())
        ways.gate.set()
        app = here.tunneler(ways=ways)
        await app.start()
        await here.listening(story)
        first = await here.until(story.session, lambda state: isinstance(state, Reachable))
        assert isinstance(first, Reachable)
        elsewhere = story.tunnel(generation=2, port=1)
        await here.append(msgspec.structs.replace(elsewhere, replica="one"))
        mended = await here.until(
            story.session, lambda state: isinstance(state, Reachable) and state.tunnel.generation == 3
        )
        assert isinstance(mended, Reachable)
        assert Address(mended.tunnel.host, mended.tunnel.port) == ways.opened[-1]
        await app.close()
