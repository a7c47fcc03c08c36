"""Who may say what on the broker, tried on a real server with every service's own nkey."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from schemas.session import SessionEvent
from schemas.subjects import Subjects
from services._runtime import topology
from services._runtime.connection import Broker, connect
from services._runtime.errors import TransientError
from services._runtime.leases import Lease
from services._runtime.settings import Configuration, Installation, Nats, Retention, Shared
from services._runtime.vault import Vault, make_keys
from services.operator_cli.nats_config import SERVICES, make_nkeys, permissions, server_configuration
from tests.support.samples import Story, stamp

SUBJECTS = Subjects()


@asynccontextmanager
async def server(folder: Path) -> AsyncIterator[Configuration]:
    text = server_configuration(
        subjects=SUBJECTS,
        hub="main",
        public_keys=make_nkeys(folder / "nkeys"),
        host="127.0.0.1",
        port=-1,
        folder=folder,
    )
    (folder / "nats.conf").write_text(text)
    command = [str(Path(sys.executable).parent / "nats-server"), "-c", str(folder / "nats.conf")]
    with (folder / "nats.log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            while not (ports := list(folder.glob("*.ports"))):
                assert process.poll() is None, (folder / "nats.log").read_text()
            url = json.loads(ports[0].read_text())["nats"][0]
            shared = Shared(
                installation=Installation(),
                nats=Nats(servers=[url.replace("0.0.0.0", "127.0.0.1")], nkeys_folder="nkeys"),
            )
            yield Configuration(file=folder / "farlab.toml", shared=shared, systems={}, sections={})
        finally:
            process.terminate()
            process.wait(10)


async def append(broker: Broker, event: SessionEvent, after: int) -> int:
    stamped = stamp()(event, after=after, cause=None)
    subject = SUBJECTS.session_event(stamped)
    return await broker.log.append("SESSIONS", subject, stamped, scope=SUBJECTS.session(event.session), after=after)


async def test_each_service_says_its_own_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services._runtime.jetstream.APPEND_SECONDS", 0.3)
    monkeypatch.setattr("services._runtime.jetstream.APPEND_TRIES", 1)
    async with server(tmp_path) as configuration:
        brokers = {service: await connect(configuration, service) for service in SERVICES}
        await topology.apply(brokers["operator-cli"].log.js, SUBJECTS, Retention())
        story = Story()
        said = {
            "hub-bridge": [story.requested()],
            "accounts": [story.admitted()],
            "hpc-launcher": [story.created(), story.submitted(), story.listening()],
            "tunneler": [story.tunnel()],
        }
        last = 0
        for service, events in said.items():
            for event in events:
                for other in SERVICES:
                    if other != service:
                        with pytest.raises(TransientError):
                            await append(brokers[other], event, last)
                last = await append(brokers[service], event, last)
        elsewhere = Story()
        foreign = elsewhere.requested()
        with pytest.raises(TransientError):
            await append(brokers["hub-bridge"], type(foreign)(**{**_fields(foreign), "hub": "other"}), 0)
        for service, broker in brokers.items():
            assert len(await broker.log.history("SESSIONS", SUBJECTS.session(story.session))) == 6, service
            await broker.close()


def _fields(event: SessionEvent) -> dict[str, object]:
    return {name: getattr(event, name) for name in event.__struct_fields__}


async def test_services_follow_consume_lease_and_seal_with_what_they_are_allowed(tmp_path: Path) -> None:
    make_keys(tmp_path / "keys")
    async with server(tmp_path) as configuration:
        operator = await connect(configuration, "operator-cli")
        await topology.apply(operator.log.js, SUBJECTS, Retention())
        for service in ("accounts", "hpc-launcher", "tunneler"):
            broker = await connect(configuration, service)
            seen: list[object] = []
            following = await broker.log.follow("SESSIONS", [SUBJECTS.sessions()], seen.append)
            await following.close()
            consuming = await broker.log.consume(
                service,
                "SESSIONS",
                [SUBJECTS.sessions()],
                _never,
                ack_wait_seconds=5,  # type: ignore[arg-type]
            )
            await consuming.close()
            lease = Lease(broker.leases, f"{service}.x", "me")
            assert await lease.acquire()
            assert await lease.acquire()
            await lease.release()
            vault = Vault(broker.vault, tmp_path / "keys", service)
            story = Story()
            await vault.put(story.session, service, {"token": "canary"})
            assert await vault.open(story.session, dict) == {"token": "canary"}
            entry = await operator.vault.get(f"{story.session}.{service}")
            assert entry is not None
            assert b"canary" not in entry[0]
            await vault.forget(story.session)
            assert await vault.names() == []
            await broker.close()
        await operator.close()


async def _never(delivery: object) -> None:
    raise AssertionError("nothing was appended")


async def test_nobody_without_a_key_gets_in(tmp_path: Path) -> None:
    async with server(tmp_path) as configuration:
        open_door = msgspec.structs.replace(configuration.shared.nats, nkeys_folder="", connect_seconds=0.2)
        shared = msgspec.structs.replace(configuration.shared, nats=open_door)
        with pytest.raises(TransientError):
            await connect(msgspec.structs.replace(configuration, shared=shared), "accounts")


@pytest.mark.parametrize("service", SERVICES)
def test_no_service_but_the_operator_may_change_or_purge_a_stream(service: str) -> None:
    allowed = permissions(service, SUBJECTS, "main").publish
    assert ">" not in allowed
    assert all(not each.startswith("$JS.API.STREAM.PURGE") for each in allowed)
    if service != "operator-cli":
        assert all(not each.startswith(("$JS.API.STREAM.DELETE", "$JS.API.STREAM.>")) for each in allowed)
