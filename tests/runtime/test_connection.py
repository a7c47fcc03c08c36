"""What a service is told when the broker, its key or its certificate is not as it should be."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from services._runtime.configuration import ConfigurationError
from services._runtime.connection import connect
from services._runtime.errors import TransientError
from services._runtime.settings import Configuration, Nats, Shared
from services._runtime.vault import KeyFileError, write_secret_file
from tests.support.broker import NatsServer, nats_server

NOBODY = "nats://127.0.0.1:1"


def configuration(folder: Path, nats: Nats) -> Configuration:
    return Configuration(file=folder / "farlab.toml", shared=Shared(nats=nats), systems={}, sections={})


async def test_a_broker_that_never_answers_is_named_within_the_time_given(tmp_path: Path) -> None:
    settings = Nats(servers=[NOBODY], connect_seconds=0.3)
    async with asyncio.timeout(10):
        with pytest.raises(TransientError, match=r"no NATS server answers at nats://127.0.0.1:1 .*is it running\?"):
            await connect(configuration(tmp_path, settings), "accounts")


async def test_nothing_goes_on_after_a_connection_was_given_up(tmp_path: Path) -> None:
    before = asyncio.all_tasks()
    with pytest.raises(TransientError):
        await connect(configuration(tmp_path, Nats(servers=[NOBODY], connect_seconds=0.2)), "accounts")
    connecting = asyncio.create_task(connect(configuration(tmp_path, Nats(servers=[NOBODY])), "accounts"))
    await asyncio.sleep(0)
    connecting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await connecting
    async with asyncio.timeout(5):
        while asyncio.all_tasks() - before:
            await asyncio.sleep(0)


async def test_a_broker_that_comes_up_late_is_waited_for(tmp_path: Path) -> None:
    server = NatsServer(tmp_path)
    await server.start()
    server.stop()
    connecting = asyncio.create_task(connect(configuration(tmp_path, Nats(servers=[server.url])), "accounts"))
    try:
        await server.start()
        broker = await connecting
        assert broker.connected
        await broker.close()
        assert not broker.connected
    finally:
        server.stop()


async def test_of_several_brokers_one_that_answers_is_enough(tmp_path: Path) -> None:
    async with nats_server(tmp_path) as server:
        broker = await connect(configuration(tmp_path, Nats(servers=[NOBODY, server.url])), "accounts")
        assert broker.connected
        await broker.close()


@pytest.mark.parametrize("seed", [b"", b"garbage", b"SUAAAA", b"\xff\xfe"])
async def test_a_seed_that_is_none_is_a_key_file_error_that_does_not_show_it(tmp_path: Path, seed: bytes) -> None:
    write_secret_file(tmp_path / "accounts.nk", seed)
    with pytest.raises(KeyFileError, match=r"accounts\.nk: not the seed of an nkey") as refused:
        await connect(configuration(tmp_path, Nats(nkeys_folder=".")), "accounts")
    assert not seed or seed.decode(errors="replace") not in str(refused.value)


async def test_a_key_that_is_missing_or_open_to_others_is_named_with_the_remedy(tmp_path: Path) -> None:
    settings = configuration(tmp_path, Nats(nkeys_folder="."))
    with pytest.raises(KeyFileError, match=r"accounts\.nk: No such file"):
        await connect(settings, "accounts")
    (tmp_path / "accounts.nk").write_text("SU")
    (tmp_path / "accounts.nk").chmod(0o644)
    with pytest.raises(KeyFileError, match="chmod 600"):
        await connect(settings, "accounts")


@pytest.mark.parametrize("content", [None, "not a certificate"])
async def test_a_bad_ca_file_is_a_setting_that_is_wrong(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "ca.pem").write_text(content)
    with pytest.raises(ConfigurationError, match=r"nats\.ca_file = .*ca\.pem: not a certificate file"):
        await connect(configuration(tmp_path, Nats(ca_file="ca.pem")), "accounts")
