"""The launcher as a process on NATS: gets ready, serves a start, ends cleanly, says what is misconfigured."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import nats
import pytest

from schemas.lifecycle import Ended, Listening, SessionState
from schemas.session import SessionEvent
from services._runtime import topology
from services._runtime.jetstream import JetStreamBucket, JetStreamLog
from services._runtime.settings import Retention
from services._runtime.vault import Vault, make_keys
from services._runtime.view import placed
from tests.services.hpc_launcher import stand_in
from tests.services.hpc_launcher.stage import ISSUER, SUBJECTS, emulated_site, job_secrets
from tests.support.broker import nats_server
from tests.support.samples import Story, stamp

SYSTEM = """
title = "Demo HPC"
[site]
backend = "unicore"
url = "{url}"
issuer_dn = "{issuer}"
delegation_key_file = "{key}"
ca_file = "{ca}"
poll_seconds = 0.1
notifications_url = ""
[reach]
reach = "direct"
networks = ["127.30.0.0/24"]
[job]
python = "{python}"
node_address = "$SLURMD_NODENAME"
ports = [40000, 49000]
prologue = ["export PYTHONPATH={stand_in}"]
[partitions.batch]
"""


def configure(folder: Path, nats_url: str, **system: object) -> Path:
    (folder / "systems").mkdir()
    (folder / "systems" / "demo-hpc.toml").write_text(SYSTEM.format(issuer=ISSUER, python=sys.executable, **system))
    (folder / "farlab.toml").write_text(f'[nats]\nservers = ["{nats_url}"]\n[installation]\nkeys_folder = "keys"\n')
    make_keys(folder / "keys")
    return folder / "farlab.toml"


def launcher(config: Path, log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "services.hpc_launcher", "--config", str(config), "--port-file", f"{log}.port"],
            stdout=output,
            stderr=output,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": str(Path.cwd())},
        )


async def test_a_start_through_the_process_and_its_clean_end(tmp_path: Path) -> None:
    async with nats_server(tmp_path, sync="2m") as server, emulated_site(tmp_path) as (site, key):
        config = configure(
            tmp_path, server.url, url=site.base_url, key=key, ca=site.ca_file, stand_in=stand_in.install(tmp_path)
        )
        client = await nats.connect(server.url)
        await topology.apply(client.jetstream(), SUBJECTS, Retention())
        log = JetStreamLog(client, SUBJECTS)
        bucket = JetStreamBucket(client.jetstream(), SUBJECTS, "vault")
        vault = Vault(bucket, tmp_path / "keys", "hpc-launcher")
        process = launcher(config, tmp_path / "launcher.log")
        try:
            story = Story()
            await vault.put(story.session, "hpc-launcher", job_secrets())
            await _append(log, story.requested())
            await _append(log, story.admitted())
            await _until(log, story, Listening)
            port = (tmp_path / "launcher.log.port").read_text()
            async with httpx.AsyncClient(trust_env=False) as http:
                assert (await http.get(f"http://127.0.0.1:{port}/readyz")).status_code == 200
                assert (await http.post(f"http://127.0.0.1:{port}/notifications/demo-hpc/x")).status_code == 404
            await _append(log, story.stop())
            await _until(log, story, Ended)
            async with asyncio.timeout(20):
                while site.store.jobs or await bucket.keys():
                    await asyncio.sleep(0.05)
            process.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(process.wait, 20) == 0
            assert b"Traceback" not in (tmp_path / "launcher.log").read_bytes()
        finally:
            process.kill()
            process.wait()
            await client.close()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ('[hpc_launcher]\nsystems = ["nosuch"]', "no system 'nosuch'; there are: demo-hpc"),
        ("[hpc_launcher]\nreconcile_secondss = 3", "reconcile_seconds"),
        ("", "delegation.pem"),
    ],
)
async def test_what_is_misconfigured_is_said_in_one_line(tmp_path: Path, change: str, words: str) -> None:
    async with nats_server(tmp_path, sync="2m") as server:
        config = configure(
            tmp_path, server.url, url="https://127.0.0.1:1/X/rest/core", key="delegation.pem", ca="", stand_in="/x"
        )
        config.write_text(config.read_text() + change)
        process = launcher(config, tmp_path / "launcher.log")
        assert await asyncio.to_thread(process.wait, 20) == 2
    [line] = [each for each in (tmp_path / "launcher.log").read_text().splitlines() if not each.startswith("{")]
    assert words in line


async def _append(log: JetStreamLog, event: SessionEvent) -> None:
    scope = SUBJECTS.session(event.session)
    history = await log.history("SESSIONS", scope)
    after = history[-1].sequence if history else 0
    stamped = stamp("hub")(event, after=after, cause=None)
    await log.append("SESSIONS", SUBJECTS.session_event(stamped), stamped, scope=scope, after=after)


async def _until(log: JetStreamLog, story: Story, state: type[SessionState]) -> None:
    async with asyncio.timeout(30):
        while not isinstance(placed(await log.history("SESSIONS", SUBJECTS.session(story.session))).state, state):
            await asyncio.sleep(0.05)
