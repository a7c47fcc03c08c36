"""Who may say what on the broker, tried on a real server with every service's own nkey."""

from __future__ import annotations

import asyncio
import contextlib
import stat
from pathlib import Path

import msgspec
import nats.errors
import pytest

from schemas.access import SignedIn
from schemas.base import HubName, SignInId, UserName
from schemas.session import SessionEvent
from schemas.subjects import Subjects
from services._runtime.connection import Broker, connect
from services._runtime.errors import TransientError
from services._runtime.leases import Lease
from services._runtime.log import Delivery
from services._runtime.settings import Configuration
from services._runtime.vault import Vault
from services.operator_cli.nats_config import QUESTIONS, SERVICES, make_nkeys, permissions
from tests.services.operator_cli.conftest import signed_in
from tests.support.samples import HUB, Story, new_session, stamp

SUBJECTS = Subjects()


async def append(broker: Broker, event: SessionEvent, after: int) -> int:
    stamped = stamp()(event, after=after, cause=None)
    subject = SUBJECTS.session_event(stamped)
    return await broker.log.append("SESSIONS", subject, stamped, scope=SUBJECTS.session(event.session), after=after)


async def denied(broker: Broker, subject: str, body: bytes = b"") -> bool:
    """Whether a request gets no answer: the server drops what it does not allow."""
    try:
        await broker.client.request(subject, body, timeout=0.3)
    except nats.errors.TimeoutError:
        return True
    return False


async def test_each_service_says_its_own_and_nothing_else(
    guarded: Configuration, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services._runtime.jetstream.APPEND_SECONDS", 0.3)
    monkeypatch.setattr("services._runtime.jetstream.APPEND_TRIES", 1)
    brokers = {service: await connect(guarded, service) for service in SERVICES}
    story = Story()
    said: dict[str, list[SessionEvent]] = {
        "hub-bridge": [story.requested()],
        "accounts": [story.admitted()],
        "hpc-launcher": [story.created(), story.submitted(), story.listening()],
        "tunneler": [story.tunnel()],
    }
    last = 0
    for service, events in said.items():
        for event in events:
            for other in SERVICES:
                if other != service and not {other, service} <= {"hpc-launcher", "cloud-launcher"}:
                    with pytest.raises(TransientError):
                        await append(brokers[other], event, last)
            last = await append(brokers[service], event, last)
    with pytest.raises(TransientError):
        await append(brokers["hub-bridge"], msgspec.structs.replace(Story().requested(), hub=HubName("other")), 0)
    for service, broker in brokers.items():
        assert len(await broker.log.history("SESSIONS", SUBJECTS.session(story.session))) == 6, service
        await broker.close()


@pytest.mark.parametrize("service", ["accounts", "hpc-launcher", "cloud-launcher", "tunneler"])
async def test_services_follow_consume_lease_and_seal_with_what_they_are_allowed(
    guarded: Configuration, service: str
) -> None:
    handled = asyncio.Event()

    async def take(delivery: Delivery) -> None:
        await delivery.acknowledge()
        handled.set()

    async with signed_in(guarded, "hub-bridge") as hub, signed_in(guarded, service) as broker:
        seen: list[object] = []
        following = await broker.log.follow("SESSIONS", [SUBJECTS.sessions()], seen.append)
        consuming = await broker.log.consume(service, "SESSIONS", [SUBJECTS.sessions()], take, ack_wait_seconds=5)
        await append(hub, Story().requested(), 0)
        async with asyncio.timeout(10):
            await handled.wait()
            while (await broker.log.js.consumer_info("SESSIONS", service)).num_ack_pending:
                await asyncio.sleep(0.02)
        assert len(seen) == 1
        obeying = await broker.log.consume(service, "ACTS", [SUBJECTS.session_acts(service)], take, ack_wait_seconds=5)
        for each in (consuming, obeying, following):
            await each.close()
        lease = Lease(broker.leases, f"{service}.x", "me")
        assert await lease.acquire()
        assert await lease.acquire()
        await lease.release()
        await _seals(guarded, broker, service)


async def _seals(configuration: Configuration, broker: Broker, service: str) -> None:
    vault = Vault(broker.vault, configuration.keys_folder, service)
    story = Story()
    await vault.put(story.session, service, {"token": "canary"})
    assert await vault.open(story.session, dict) == {"token": "canary"}
    async with signed_in(configuration, "operator-cli") as operator:
        entry = await operator.vault.get(f"{story.session}.{service}")
        assert entry is not None
        assert b"canary" not in entry[0]
    await vault.forget(story.session)
    assert await vault.names() == []


async def test_nobody_takes_another_services_place_in_the_log(guarded: Configuration) -> None:
    async def keep(delivery: Delivery) -> None:
        kept.append(delivery)
        arrived.set()

    kept: list[Delivery] = []
    arrived = asyncio.Event()
    async with (
        signed_in(guarded, "hub-bridge") as hub,
        signed_in(guarded, "accounts") as accounts,
        signed_in(guarded, "tunneler") as tunneler,
    ):
        consuming = await accounts.log.consume("accounts", "SESSIONS", [SUBJECTS.sessions()], keep, ack_wait_seconds=60)
        await append(hub, Story().requested(), 0)
        async with asyncio.timeout(10):
            await arrived.wait()
        for act in ("DELETE.SESSIONS.accounts", "CREATE.SESSIONS.accounts", "CREATE.SESSIONS.accounts.x"):
            assert await denied(tunneler, f"$JS.API.CONSUMER.{act}", b'{"stream_name": "SESSIONS", "config": {}}'), act
        reply = kept[0]._message.reply  # type: ignore[attr-defined]
        await tunneler.client.publish(reply, b"+ACK")
        await tunneler.client.flush()
        info = await accounts.log.js.consumer_info("SESSIONS", "accounts")
        assert info.num_ack_pending == 1, "another service acknowledged what accounts had in hand"
        await kept[0].acknowledge()
        await consuming.close()


async def test_only_accounts_writes_who_may_use_what(guarded: Configuration) -> None:
    for service in ("hub-bridge", "hpc-launcher", "tunneler", "operator-cli"):
        async with signed_in(guarded, service) as broker:
            assert await denied(broker, "$KV.access.ada", b"{}"), service
    async with signed_in(guarded, "accounts") as accounts, signed_in(guarded, "hub-bridge") as hub:
        await accounts.access.put("ada", b"{}")
        entry = await hub.access.get("ada")
        assert entry is not None
        assert entry[0] == b"{}"


async def test_no_service_but_the_operator_may_change_or_purge_a_stream(guarded: Configuration) -> None:
    for service in SERVICES:
        acts = ["PURGE", "DELETE", "MSG.DELETE", "RESTORE", "SNAPSHOT"] + ["UPDATE"] * (service != "operator-cli")
        async with signed_in(guarded, service) as broker:
            answered = await asyncio.gather(*[denied(broker, f"$JS.API.STREAM.{act}.SESSIONS") for act in acts])
            assert all(answered), (service, dict(zip(acts, answered, strict=True)))


async def test_sign_ins_are_told_by_the_hub_and_heard_by_accounts(
    guarded: Configuration, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services._runtime.jetstream.APPEND_SECONDS", 0.3)
    monkeypatch.setattr("services._runtime.jetstream.APPEND_TRIES", 1)
    heard = asyncio.Event()

    async def take(delivery: Delivery) -> None:
        await delivery.acknowledge()
        heard.set()

    event = SignedIn(user=UserName("ada"), hub=HUB, sign_in=SignInId(new_session()))
    scope = SUBJECTS.sign_in("ada", event.sign_in)
    stamped = stamp()(event, after=0, cause=None)
    subject = SUBJECTS.sign_in_event(stamped)
    for service in SERVICES:
        if service != "hub-bridge":
            async with signed_in(guarded, service) as broker:
                with pytest.raises(TransientError):
                    await broker.log.append("ACCESS", subject, stamped, scope=scope, after=0)
    async with signed_in(guarded, "hub-bridge") as hub, signed_in(guarded, "accounts") as accounts:
        await hub.log.append("ACCESS", subject, stamped, scope=scope, after=0)
        taking = await accounts.log.consume("accounts", "ACCESS", [SUBJECTS.sign_ins()], take, ack_wait_seconds=5)
        async with asyncio.timeout(10):
            await heard.wait()
        await taking.close()
        await accounts.tokens.put("ada", b"sealed")
        with pytest.raises(TransientError):
            await hub.tokens.get("ada")


async def test_a_service_asks_what_it_may_under_its_own_name_and_nobody_else_hears_it(guarded: Configuration) -> None:
    async def answer(asker: str, question: bytes) -> bytes:
        return asker.encode() + b" asked " + question

    async with contextlib.AsyncExitStack() as stack:
        brokers = {service: await stack.enter_async_context(signed_in(guarded, service)) for service in SERVICES}
        overheard: list[bytes] = []

        async def overhear(asker: str, question: bytes) -> bytes:
            overheard.append(question)
            return b"a lie"

        for question in ("renew-sign-in", "access-token"):
            subject = SUBJECTS.question("accounts", question)
            await brokers["tunneler"].rpc.answer(subject, "tunneler", overhear)
            await brokers["accounts"].rpc.answer(subject, "accounts", answer)
            for service, broker in brokers.items():
                for name in ("hub-bridge", "hpc-launcher", "tunneler"):
                    if service == name and question in QUESTIONS.get(service, ()):
                        assert (
                            await broker.rpc.ask(subject, name, b"?", timeout_seconds=5) == name.encode() + b" asked ?"
                        )
                    else:
                        with pytest.raises(TransientError, match="nobody answers"):
                            await broker.rpc.ask(subject, name, b"?", timeout_seconds=0.2)
        assert overheard == []


async def test_nobody_without_a_key_gets_in(guarded: Configuration) -> None:
    settings = msgspec.structs.replace(guarded.shared.nats, nkeys_folder="", connect_seconds=0.2)
    shared = msgspec.structs.replace(guarded.shared, nats=settings)
    with pytest.raises(TransientError, match="does not let accounts in"):
        await connect(msgspec.structs.replace(guarded, shared=shared), "accounts")


@pytest.mark.parametrize("service", SERVICES)
def test_nothing_is_allowed_to_all(service: str) -> None:
    allowed = permissions(service, SUBJECTS, "main")
    assert not {">", "$JS.API.>", "$JS.ACK.>", "farlab.>"} & {*allowed.publish, *allowed.subscribe}
    heard = (f"_INBOX.{service}.", "farlab.deliver.", *(["farlab.v1.rpc.accounts."] if service == "accounts" else []))
    assert all(subject.startswith(heard) for subject in allowed.subscribe)


def test_installations_that_share_a_server_are_blind_to_each_other() -> None:
    for service in SERVICES:
        other = permissions(service, Subjects("other"), "main")
        said = [each for each in other.publish if not each.startswith("$JS.API.") and each != "$JS.FC.>"]
        assert all("other" in each.lower() for each in said), service


def test_seeds_are_for_their_owner_and_stay(tmp_path: Path) -> None:
    public = make_nkeys(tmp_path)
    assert make_nkeys(tmp_path) == public
    assert len(set(public.values())) == len(SERVICES)
    assert {stat.S_IMODE(file.stat().st_mode) for file in tmp_path.glob("*.nk")} == {0o600}
