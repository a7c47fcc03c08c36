"""Whoever is killed, and at whatever step of a submission: never a second job, never an orphan, always an end."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Protocol

import nats
import pytest
import tomli_w

from schemas.lifecycle import Ended, Listening, SessionState
from schemas.session import SessionEvent
from services._runtime import topology
from services._runtime.jetstream import JetStreamBucket, JetStreamLog
from services._runtime.settings import Retention
from services._runtime.vault import Vault, make_keys
from services._runtime.view import placed
from services.operator_cli.supervisor import dying_with
from services.operator_cli.up import left_over
from tests.real.unicore.calls import client
from tests.real.unicore.configuration import ISSUER
from tests.real.unicore.conftest import REAL
from tests.real.unicore.gate import STEPS, Gate, Kill, When
from tests.real.unicore.server import ROOT, UnicoreX
from tests.real.unicore.sites import ADA
from tests.services.hpc_launcher import stand_in
from tests.services.hpc_launcher.stage import SUBJECTS, job_secrets
from tests.support.broker import nats_server
from tests.support.samples import Story, stamp
from tests.support.site import delegation_key

pytestmark = pytest.mark.timeout(600)
NODE = "127.30.0.51"
SETTLED_SECONDS = 150
VICTIMS = ("launcher", "site")
WHEN: tuple[When, ...] = ("before", "after")


class Program(Protocol):
    """A site as a process that can be killed and started again."""

    ca_file: Path
    delegation_key_file: Path
    jobs: Path
    name: str

    @property
    def base_url(self) -> str:
        """The base of the REST API."""

    def begin(self) -> None:
        """Starts it, and does not wait."""

    def ready(self) -> bool:
        """Whether it serves since then."""

    def kill(self) -> None:
        """Ends it as a power cut does."""


class EmulatedProgram:
    """The stand-in as `farlab up` runs it."""

    name = "emulated"

    def __init__(self, folder: Path) -> None:
        self.delegation_key_file, public = delegation_key(folder)
        self._folder, self._file = folder / "site", folder / "site.toml"
        self.jobs, self.ca_file = self._folder / "jobs", self._folder / "tls" / "ca.pem"
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            self._port = taken.getsockname()[1]
        settings = {
            "folder": str(self._folder),
            "port": self._port,
            "queues": {"batch": {}},
            "jobs_per_node": 100,
            "queue_seconds": 0.1,
            "preparing_seconds": 0.2,
            "users": [{"dn": ADA, "uids": ["ada1"], "groups": ["ztrain"]}],
            "trusted": {ISSUER: str(public)},
        }
        self._file.write_text(tomli_w.dumps(settings))
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def base_url(self) -> str:
        """See Program."""
        return f"https://127.0.0.1:{self._port}/DEMO/rest/core"

    def begin(self) -> None:
        """See Program."""
        (self._folder / "ports.json").unlink(missing_ok=True)
        command = [sys.executable, "-m", "emulators.unicore_site", "--config", str(self._file)]
        with (self._folder.parent / "site.log").open("ab") as log:
            self._process = subprocess.Popen(
                command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log, preexec_fn=dying_with(os.getpid())
            )

    def ready(self) -> bool:
        """See Program."""
        assert self._process is not None
        assert self._process.poll() is None, (self._folder.parent / "site.log").read_text()
        return (self._folder / "ports.json").exists()

    def kill(self) -> None:
        """See Program."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()


class RealProgram:
    """UNICORE/X."""

    name = "real"

    def __init__(self, server: UnicoreX) -> None:
        self._server = server
        self.ca_file, self.delegation_key_file = server.trust.ca_file, server.trust.delegation_key_file
        self.jobs = server.jobs

    @property
    def base_url(self) -> str:
        """See Program."""
        return self._server.base_url

    def begin(self) -> None:
        """See Program."""
        self._server.begin()

    def ready(self) -> bool:
        """See Program."""
        return self._server.ready()

    def kill(self) -> None:
        """See Program."""
        self._server.kill()


ASKED_FOR = pytest.mark.skipif(
    not os.environ.get("FARLAB_UNICORE_KILLS"),
    reason="the rounds against UNICORE/X take five minutes: set FARLAB_UNICORE_KILLS=1",
)


@pytest.fixture(params=["emulated", pytest.param("real", marks=[*REAL, ASKED_FOR])])
def program(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Program]:
    """A site, each kind in its turn."""
    site: Program = (
        RealProgram(request.getfixturevalue("unicorex")) if request.param == "real" else EmulatedProgram(tmp_path)
    )
    if request.param == "emulated":
        site.begin()
        while not site.ready():
            time.sleep(0.05)
    yield site
    if request.param == "emulated":
        site.kill()


class Launcher:
    """The launcher as a process, with the log it stands on in its hands."""

    def __init__(self, folder: Path, nats_url: str) -> None:
        self._folder, self._nats_url = folder, nats_url
        self._process: subprocess.Popen[bytes] | None = None

    def configure(self, site: Program, url: str) -> None:
        """Writes the configuration."""
        (self._folder / "systems").mkdir()
        system = {
            "title": "The site",
            "site": {
                "backend": "unicore",
                "url": url,
                "issuer_dn": ISSUER,
                "delegation_key_file": str(site.delegation_key_file),
                "poll_seconds": 0.3,
                "longest_poll_seconds": 1.0,
                "requests_per_second": 500.0,
                "timeout_seconds": 30.0,
            },
            "reach": {"reach": "direct", "networks": ["127.30.0.0/24"]},
            "job": {
                "python": sys.executable,
                "node_address": NODE,
                "ports": [40_000, 49_000],
                "prologue": [f"export PYTHONPATH={stand_in.install(self._folder)}"],
            },
            "partitions": {"batch": {}},
        }
        (self._folder / "systems" / "demo-hpc.toml").write_text(tomli_w.dumps(system))
        farlab = {
            "nats": {"servers": [self._nats_url]},
            "installation": {"keys_folder": "keys"},
            "hpc_launcher": {"replica": "one", "reconcile_seconds": 1.0},
        }
        (self._folder / "farlab.toml").write_text(tomli_w.dumps(farlab))

    def start(self) -> None:
        """Starts it."""
        command = [sys.executable, "-m", "services.hpc_launcher", "--config", str(self._folder / "farlab.toml")]
        with (self._folder / "launcher.log").open("ab") as log:
            self._process = subprocess.Popen(
                command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log, preexec_fn=dying_with(os.getpid())
            )

    def kill(self) -> None:
        """Ends it as a power cut does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()


async def test_no_second_job_and_no_orphan_whoever_is_killed_at_whatever_step(
    program: Program, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    victim = ""
    killed: list[str] = []

    async def kill() -> None:
        """In this thread, so that what is started lives as long as the test; and without keeping others waiting."""
        if victim == "launcher":
            launcher.kill()
            launcher.start()
        else:
            program.kill()
            program.begin()
            while not await asyncio.to_thread(program.ready):
                await asyncio.sleep(0.05)
        killed.append(victim)

    make_keys(tmp_path / "keys")
    async with nats_server(tmp_path, sync="2m") as server, Gate(program.base_url, program.ca_file, kill) as gate:
        launcher = Launcher(tmp_path, server.url)
        launcher.configure(program, gate.url)
        connection = await nats.connect(server.url)
        try:
            await topology.apply(connection.jetstream(), SUBJECTS, Retention())
            log = JetStreamLog(connection, SUBJECTS)
            bucket = JetStreamBucket(connection.jetstream(), SUBJECTS, "vault")
            vault = Vault(bucket, tmp_path / "keys", "hpc-launcher")
            launcher.start()
            stories = []
            for chosen, step, when in product(VICTIMS, STEPS, WHEN):
                victim = chosen
                gate.armed = Kill(step, when)
                story = Story()
                stories.append(story)
                await vault.put(story.session, "hpc-launcher", job_secrets())
                await _append(log, story.requested())
                await _append(log, story.admitted())
                async with asyncio.timeout(SETTLED_SECONDS):
                    while len(killed) < len(stories):
                        await asyncio.sleep(0.05)
            states = [await _until(log, story, Listening, Ended) for story in stories]
            for story, state in zip(stories, states, strict=True):
                if isinstance(state, Listening):
                    await _append(log, story.stop())
            ends = [await _until(log, story, Ended) for story in stories]
            orphans = await _left(program, bucket)
        finally:
            launcher.kill()
            await connection.close()
    seconds = {session: jobs & gate.started for session, jobs in gate.created.items() if len(jobs & gate.started) > 1}
    outcomes = sorted(end.end.outcome for end in ends if isinstance(end, Ended))
    served = sum(isinstance(state, Listening) for state in states)
    reasons = Counter(
        end.end.reason[:120]
        for state, end in zip(states, ends, strict=True)
        if isinstance(state, Ended) and isinstance(end, Ended)
    )
    with capsys.disabled():
        print(  # noqa: T201
            f"\nkill rounds ({program.name}): {len(killed)} rounds, {killed.count('launcher')} of the launcher and "
            f"{killed.count('site')} of the site; {served} of {len(stories)} served, the others ended with a reason; "
            f"second jobs: {len(seconds)}; orphans: {len(orphans)}",
            *(f"\n  {count} not served: {reason}" for reason, count in reasons.items()),
        )
    assert len(killed) == len(stories) == 20
    assert seconds == {}
    assert orphans == []
    assert set(outcomes) <= {"stopped", "failed", "lost"}
    assert served >= len(stories) // 2
    assert all(end.end.reason for end in ends if isinstance(end, Ended))


async def _append(log: JetStreamLog, event: SessionEvent) -> None:
    scope = SUBJECTS.session(event.session)
    history = await log.history("SESSIONS", scope)
    after = history[-1].sequence if history else 0
    stamped = stamp("hub")(event, after=after, cause=None)
    await log.append("SESSIONS", SUBJECTS.session_event(stamped), stamped, scope=scope, after=after)


async def _until(log: JetStreamLog, story: Story, *wanted: type[SessionState]) -> SessionState:
    until = time.monotonic() + SETTLED_SECONDS
    while time.monotonic() < until:
        history = await log.history("SESSIONS", SUBJECTS.session(story.session))
        if isinstance(state := placed(history).state, wanted):
            return state
        await asyncio.sleep(0.1)
    said = [f"{each.message.at:%H:%M:%S} {each.message}" for each in history if isinstance(each.message, SessionEvent)]
    pytest.fail(f"{story.session} rests in {type(state).__name__}:\n" + "\n".join(line[:300] for line in said))


async def _left(program: Program, bucket: JetStreamBucket) -> list[str]:
    """What is left once reconciliation had its time: jobs, processes, secrets."""
    found: list[str] = []
    async with client(program) as http:  # type: ignore[arg-type]
        loop = asyncio.get_running_loop()
        until = loop.time() + SETTLED_SECONDS
        while True:
            listed = await http.get("/jobs", params={"tags": "farlab-installation-farlab"})
            found = [*listed.json()["jobs"], *map(str, left_over(program.jobs)), *await bucket.keys()]
            if not found or loop.time() > until:
                return found
            await asyncio.sleep(0.2)
