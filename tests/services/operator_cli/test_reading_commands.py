"""`farlab sessions`, `timeline` and `stop` as a person types them, on a broker with the permissions of `farlab up`."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from schemas.session import SessionEvent
from services._runtime import topology
from services._runtime.connection import Broker, connect
from services._runtime.settings import load
from services._runtime.vault import make_keys
from services.operator_cli.nats_config import make_nkeys, server_configuration
from tests.support.running import ROOT
from tests.support.samples import Story, stamp


@asynccontextmanager
async def broker(folder: Path) -> AsyncIterator[Path]:
    """A broker as `farlab up` starts it; the configuration that leads to it."""
    file = folder / "farlab.toml"
    (folder / "systems").mkdir()
    (folder / "systems" / "demo-hpc.toml").write_text((ROOT / "systems" / "demo-hpc.toml").read_text())
    file.write_text("")
    make_keys(folder / "keys")
    text = server_configuration(
        subjects=load(file).subjects,
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
            async with asyncio.timeout(20):
                while not (url := listening(folder)):
                    assert process.poll() is None, (folder / "nats.log").read_text()
                    await asyncio.sleep(0.01)
            file.write_text(f'[nats]\nservers = ["{url}"]\nnkeys_folder = "nkeys"\n')
            yield file
        finally:
            process.terminate()
            process.wait(10)


def listening(folder: Path) -> str:
    for file in folder.glob("*.ports"):
        try:
            return str(json.loads(file.read_text())["nats"][0])
        except (ValueError, KeyError, IndexError):
            return ""
    return ""


async def farlab(file: Path, *arguments: str) -> tuple[int, str, str]:
    """The exit code and what was printed on standard output and standard error."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "services.operator_cli", *arguments, "--config", str(file)),
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "300"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    async with asyncio.timeout(60):
        out, err = await process.communicate()
    assert b"Traceback" not in err
    return process.returncode or 0, out.decode(), err.decode()


async def append(service: Broker, event: SessionEvent, after: int) -> int:
    stamped = stamp()(event, after=after, cause=None)
    subjects = service.log.subjects
    scope = subjects.session(event.session)
    return await service.log.append("SESSIONS", subjects.session_event(stamped), stamped, scope=scope, after=after)


async def test_an_operator_reads_and_stops_and_is_told_in_one_line_what_cannot_be(tmp_path: Path) -> None:
    async with broker(tmp_path) as file:
        configuration, story = load(file), Story(server_name="lab")
        operator = await connect(configuration, "operator-cli")
        await topology.apply(operator.log.js, configuration.subjects, configuration.shared.retention)
        hub, accounts = await connect(configuration, "hub-bridge"), await connect(configuration, "accounts")
        await append(accounts, story.admitted(), await append(hub, story.requested(), 0))
        listed, told, unknown, stopped = await asyncio.gather(
            farlab(file, "sessions", "--json"),
            farlab(file, "timeline", "ada/lab", "--json"),
            farlab(file, "timeline", "nobody/lab"),
            farlab(file, "stop", story.session[-10:], "--reason", "maintenance"),
        )
        assert (listed[0], [each["session"] for each in json.loads(listed[1])]) == (0, [story.session])
        assert [step["type"] for step in json.loads(told[1])][:2] == ["start-requested.v1", "start-admitted.v1"]
        assert (unknown[0], unknown[1]) == (2, "")
        assert unknown[2] == "farlab: there is no session 'nobody/lab'; `farlab sessions` lists them\n"
        assert (stopped[0], stopped[1]) == (0, f"{story.session}: its stop is requested\n")
        history = await operator.log.history("SESSIONS", configuration.subjects.session(story.session))
        assert type(history[-1].message).__name__ == "StopRequested"
        assert history[-1].message.source == "farlab/operator-cli"
        for each in (operator, hub, accounts):
            await each.close()


async def test_a_broker_that_does_not_know_our_key_is_said_in_one_line(tmp_path: Path) -> None:
    async with broker(tmp_path) as file:
        (tmp_path / "nkeys" / "operator-cli.nk").unlink()
        make_nkeys(tmp_path / "nkeys")
        file.write_text(file.read_text() + "connect_seconds = 0.5\n")
        code, out, err = await farlab(file, "sessions")
        assert (code, out) == (1, "")
        assert len(err.strip().splitlines()) == 1
        assert "operator-cli" in err
