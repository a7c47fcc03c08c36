from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from services._runtime import topology
from services._runtime.connection import Broker, connect
from services._runtime.settings import Configuration, load
from services._runtime.vault import make_keys
from services.operator_cli.nats_config import make_nkeys, server_configuration
from tests.support.running import ROOT
from tests.support.samples import HUB


@asynccontextmanager
async def guarded_nats(folder: Path, *, sandbox: bool = False) -> AsyncIterator[Configuration]:
    """A real nats-server with the permissions `farlab up` gives, and a configuration on disk that leads to it."""
    (folder / "systems").mkdir()
    (folder / "systems" / "demo-hpc.toml").write_text((ROOT / "systems" / "demo-hpc.toml").read_text())
    (folder / "farlab.toml").write_text(f'[installation]\nhub = "{HUB}"\n')
    text = server_configuration(
        subjects=load(folder / "farlab.toml").subjects,
        hub=HUB,
        public_keys=make_nkeys(folder / "nkeys"),
        host="127.0.0.1",
        port=-1,
        folder=folder,
        sandbox=sandbox,
    )
    (folder / "nats.conf").write_text(text)
    make_keys(folder / "keys")
    command = [str(Path(sys.executable).parent / "nats-server"), "-c", str(folder / "nats.conf")]
    with (folder / "nats.log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            async with asyncio.timeout(20):
                while not (url := _url(folder)):
                    assert process.poll() is None, (folder / "nats.log").read_text()
                    await asyncio.sleep(0.01)
            (folder / "farlab.toml").write_text(
                f'[installation]\nhub = "{HUB}"\nsandbox = {str(sandbox).lower()}\n'
                f'[nats]\nservers = ["{url}"]\nnkeys_folder = "nkeys"\n'
            )
            yield load(folder / "farlab.toml")
        finally:
            process.terminate()
            process.wait(10)


def _url(folder: Path) -> str:
    for file in folder.glob("*.ports"):
        try:
            return str(json.loads(file.read_text())["nats"][0])
        except (ValueError, KeyError, IndexError):
            return ""
    return ""


@pytest.fixture
async def bare(tmp_path: Path) -> AsyncIterator[Configuration]:
    """A broker without streams."""
    async with guarded_nats(tmp_path) as configuration:
        yield configuration


@pytest.fixture
async def guarded(bare: Configuration) -> Configuration:
    """A broker with everything declared, and nothing in it."""
    operator = await connect(bare, "operator-cli")
    await topology.apply(operator.log.js, bare.subjects, bare.shared.retention)
    await operator.close()
    return bare


@asynccontextmanager
async def signed_in(configuration: Configuration, service: str) -> AsyncIterator[Broker]:
    broker = await connect(configuration, service)
    try:
        yield broker
    finally:
        await broker.close()
