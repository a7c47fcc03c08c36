"""What all spawners share, on a broker in memory: waiting for the log, what a user may choose, secrets that go."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

from schemas.base import HubName, SessionId
from schemas.lifecycle import Withdrawn
from schemas.secrets import CertificateProof, Certificates, HmacProof, JobSecrets
from schemas.session import CloudPlace, TunnelReady
from services._runtime.errors import TransientError
from services._runtime.memory import MemoryBucket, MemoryLog
from services._runtime.rpc import MemoryRpc
from services._runtime.settings import Configuration, load
from services._runtime.vault import Vault
from services.hub_bridge import bridge as bridge_module
from services.hub_bridge.bridge import Bridge
from services.hub_bridge.secrets import HubSecrets, fingerprint, seal
from services.hub_bridge.sessions import ENDING
from tests.services.hub_bridge.installation import write_configuration
from tests.services.hub_bridge.others import give_access
from tests.services.hub_bridge.test_sessions import tell, up_to_tunnel
from tests.support.samples import HUB, NOW, Story, new_session


class MemoryBroker:
    """A broker in this process."""

    def __init__(self) -> None:
        self.log = MemoryLog()
        self.vault = MemoryBucket()
        self.access = MemoryBucket()
        self.activity = MemoryBucket()
        self.rpc = MemoryRpc()
        self.closed = False

    async def close(self) -> None:
        self.closed = True


class Listener:
    """A spawner that only listens."""

    def __init__(self) -> None:
        self.told: asyncio.Queue[object] = asyncio.Queue()

    async def ended(self) -> None:
        self.told.put_nowait("ended")

    async def moved(self, tunnel: TunnelReady) -> None:
        self.told.put_nowait(tunnel.generation)


@pytest.fixture
def configuration(tmp_path: Path) -> Configuration:
    write_configuration(tmp_path, "nats://127.0.0.1:1", ["ada"])
    return load(tmp_path / "farlab.toml")


@pytest.fixture
def broker() -> MemoryBroker:
    return MemoryBroker()


async def _bridge(configuration: Configuration, broker: MemoryBroker) -> Bridge:
    async def connect(_configuration: Configuration, _service: str) -> MemoryBroker:
        return broker

    bridge = Bridge(configuration, connect)
    await bridge.opened(5)
    return bridge


async def test_whoever_needs_the_log_waits_for_it_as_long_as_told(
    configuration: Configuration, broker: MemoryBroker
) -> None:
    there = asyncio.Event()

    async def connect(_configuration: Configuration, _service: str) -> MemoryBroker:
        await there.wait()
        return broker

    bridge = Bridge(configuration, connect)
    with pytest.raises(TransientError, match=r"did not answer within 0\.01 s"):
        await bridge.opened(0.01)
    waiting = asyncio.create_task(bridge.opened())
    there.set()
    await waiting
    await bridge.close()
    assert broker.closed


async def test_the_offer_is_made_of_catalogue_and_access(configuration: Configuration, broker: MemoryBroker) -> None:
    await give_access(broker.access, ["ada", "Ünïcödé / ; $(x)"])
    bridge = await _bridge(configuration, broker)
    for user in ("ada", "Ünïcödé / ; $(x)"):
        assert list((await bridge.offer(user)).organisations["default"].systems) == ["demo-hpc"]
    assert not (await bridge.offer("nobody")).organisations
    await bridge.close()


async def test_activity_on_a_cloud_is_told_where_it_is_news(configuration: Configuration, broker: MemoryBroker) -> None:
    bridge = await _bridge(configuration, broker)
    on_cloud, on_hpc = Story(), Story()
    request = msgspec.structs.replace(on_cloud.requested(), place=CloudPlace(flavour="small"))
    for story, first in ((on_cloud, request), (on_hpc, on_hpc.requested())):
        await tell(broker.log, first, *up_to_tunnel(story)[1:], story.ready())
        await bridge.used(story.session, NOW)
    await bridge.used(on_cloud.session, NOW + timedelta(seconds=5))
    assert await broker.activity.keys() == [on_cloud.session]
    entry = await broker.activity.get(on_cloud.session)
    assert entry is not None
    assert entry[0].decode() == NOW.isoformat()
    later = NOW.replace(tzinfo=None) + timedelta(minutes=1)
    await bridge.used(on_cloud.session, later)
    entry = await broker.activity.get(on_cloud.session)
    assert entry is not None
    assert entry[0].decode() == (NOW + timedelta(minutes=1)).isoformat()
    await bridge.close()


async def test_a_spawner_hears_of_moves_once_its_user_is_in_and_of_the_end(
    configuration: Configuration, broker: MemoryBroker
) -> None:
    bridge = await _bridge(configuration, broker)
    story, spawner = Story(), Listener()
    bridge.attach(story.session, spawner)
    await seal(bridge.vault, story.session, HUB, {"JUPYTERHUB_API_TOKEN": "canary"}, None)
    await tell(broker.log, *up_to_tunnel(story), story.ready(), story.tunnel(generation=2), story.stop(), story.ended())
    assert await spawner.told.get() == 2
    assert await spawner.told.get() == "ended"
    while await bridge.vault.names():
        await asyncio.sleep(0)
    await bridge.close()


async def test_sessions_that_no_spawner_holds_are_found_also_when_they_come_late(
    configuration: Configuration, broker: MemoryBroker
) -> None:
    there, held, ending, late, own, disowned = (Story(server_name=str(number)) for number in range(6))
    await tell(broker.log, there.requested(), held.requested(), ending.requested(), ending.stop())
    bridge = await _bridge(configuration, broker)
    for each in (held, own):
        bridge.attach(each.session, SimpleNamespace())  # type: ignore[arg-type]
    bridge.disown(disowned.requested())
    unheld = bridge.unheld()
    assert (await anext(unheld)).session == there.session
    await tell(broker.log, own.requested(), disowned.requested(), late.requested())
    assert (await asyncio.wait_for(anext(unheld), 5)).session == late.session
    await bridge.withdraw(late.requested(), "nobody wants it")
    assert isinstance(bridge.sessions.state(late.session), ENDING)
    await bridge.close()


async def test_secrets_a_killed_hub_left_behind_go_and_those_of_others_stay(
    configuration: Configuration, broker: MemoryBroker
) -> None:
    vault = Vault(broker.vault, configuration.keys_folder, "hub-bridge")
    live, ended, never, foreign = Story(), Story(), new_session(), new_session()
    for session in (live.session, ended.session, never):
        await seal(vault, session, HUB, {"JUPYTERHUB_API_TOKEN": "t"}, None)
    await seal(vault, foreign, HubName("other"), {"JUPYTERHUB_API_TOKEN": "t"}, None)
    await tell(broker.log, live.requested(), ended.requested(), ended.stop(), ended.ended())
    bridge = await _bridge(configuration, broker)
    await bridge.sweep()
    assert {name.partition(".")[0] for name in await vault.names()} == {live.session, foreign}
    await bridge.close()


async def test_a_sweep_that_the_log_did_not_answer_is_tried_again(
    configuration: Configuration, broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bridge_module, "ON_ITS_WAY_SECONDS", 0.0)

    class AwayAtFirst(MemoryBucket):
        asked = 0

        async def keys(self) -> list[str]:
            self.asked += 1
            if self.asked == 1:
                raise TransientError("away")
            return await super().keys()

    broker.vault = bucket = AwayAtFirst()
    vault, never = Vault(bucket, configuration.keys_folder, "hub-bridge"), new_session()
    await seal(vault, never, HUB, {"JUPYTERHUB_API_TOKEN": "t"}, None)
    bridge = await _bridge(configuration, broker)
    async with asyncio.timeout(10):
        while await bucket.get(f"{never}.hub-bridge") is not None:
            await asyncio.sleep(0.01)
    await bridge.close()


async def test_a_hub_ends_when_the_log_went_back_for_its_memory_is_wrong(
    configuration: Configuration, broker: MemoryBroker
) -> None:
    told: asyncio.Queue[str] = asyncio.Queue()

    class GoesBack(MemoryLog):
        async def past_changed(self) -> str:
            return "SESSIONS ends at message 3, and 7 was read from it"

    broker.log = GoesBack()

    async def connect(_configuration: Configuration, _service: str) -> MemoryBroker:
        return broker

    bridge = Bridge(configuration, connect, end_process=told.put_nowait)
    assert "and 7 was read" in await asyncio.wait_for(told.get(), 10)
    await bridge.close()


async def test_each_recipient_opens_its_own_part_only(configuration: Configuration, broker: MemoryBroker) -> None:
    keys = configuration.keys_folder
    vaults = {name: Vault(broker.vault, keys, name) for name in ("hub-bridge", "hpc-launcher", "tunneler")}
    session = SessionId(new_session())
    environment = {"JUPYTERHUB_API_TOKEN": "canary-token", "OTHER": "x"}
    await seal(vaults["hub-bridge"], session, HUB, environment, None)
    job = await vaults["hpc-launcher"].open(session, JobSecrets)
    assert job.environment == environment
    proof: HmacProof | CertificateProof = await vaults["tunneler"].open(session, HmacProof | CertificateProof)  # type: ignore[arg-type]
    assert proof == HmacProof(key=job.proof_key)
    assert await vaults["hub-bridge"].open(session, HubSecrets) == HubSecrets(hub=HUB, api_token="canary-token")
    for name in await vaults["tunneler"].names():
        entry = await broker.vault.get(name)
        assert entry is not None
        assert b"canary" not in entry[0]


async def test_under_internal_ssl_the_job_gets_its_certificate_and_the_tunneler_its_fingerprint(
    configuration: Configuration, broker: MemoryBroker, tmp_path: Path
) -> None:
    from certipy import Certipy

    store = Certipy(store_dir=str(tmp_path / "certificates"))
    store.create_ca("ca")
    files = store.create_signed_pair("user-ada", "ca")["files"]
    pem = Path(files["cert"]).read_text()
    certificates = Certificates(keyfile=Path(files["key"]).read_text(), certfile=pem, cafile="ca")
    vault = Vault(broker.vault, configuration.keys_folder, "hub-bridge")
    session = SessionId(new_session())
    await seal(vault, session, HUB, {}, certificates)
    tunneler = Vault(broker.vault, configuration.keys_folder, "tunneler")
    proof: CertificateProof = await tunneler.open(session, HmacProof | CertificateProof)  # type: ignore[arg-type]
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes

    expected = x509.load_pem_x509_certificate(pem.encode()).fingerprint(hashes.SHA256()).hex()
    assert proof == CertificateProof(sha256=expected)
    assert fingerprint("text before\n" + pem + pem) == expected


async def test_a_start_that_was_given_up_and_shows_up_in_the_log_is_stopped(
    configuration: Configuration, broker: MemoryBroker
) -> None:
    """The broker took the event, and its answer was lost: the user was told that nothing was started."""
    bridge = await _bridge(configuration, broker)
    story = Story()
    bridge.disown(story.requested())
    await tell(broker.log, story.requested())
    state = await bridge.sessions.wait_for(story.session, lambda at: isinstance(at, Withdrawn))
    assert isinstance(state, Withdrawn)
    assert "did not answer" in state.stop.reason
    await bridge.close()


async def test_how_long_a_start_may_still_take(
    configuration: Configuration, broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    bridge = await _bridge(configuration, broker)
    story = Story()
    with pytest.raises(TransientError):
        bridge.seconds_left(story.session)
    await tell(broker.log, story.requested())
    monkeypatch.setattr(bridge, "now", lambda: NOW)
    assert bridge.seconds_left(story.session) == 24 * 3600
    monkeypatch.setattr(bridge, "now", lambda: NOW + timedelta(days=3))
    assert bridge.seconds_left(story.session) == 0
    await bridge.close()
