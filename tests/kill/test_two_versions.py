"""Upgrade and rollback under load: tomorrow's build joins today's, replaces it part by part, and is taken back."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest

from services._runtime.connection import connect
from services._runtime.direct_get import stored
from services._runtime.settings import load
from services._runtime.tasks import end
from services.operator_cli.supervisor import dying_with
from tests.kill.installation import Installation, installation
from tests.kill.users import ACCOUNTS, Users
from tests.kill.verdict import settled, watch_for_doubles
from tests.support.running import ROOT

PACKAGES = ("schemas", "services")
PARTS = ("accounts", "hpc_launcher", "tunneler", "hub")
"""In the order of an upgrade."""
SERVERS = 8
FIELD = "of_tomorrow"


class Tree:
    """The packages that processes of an installation find when they start: today's, or tomorrow's."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "tree"
        self.path.mkdir()
        self._tomorrow = folder / "tomorrow"
        for package in PACKAGES:
            shutil.copytree(ROOT / package, self._tomorrow / package, ignore=shutil.ignore_patterns("__pycache__"))
        _replace(
            self._tomorrow / "schemas" / "session.py",
            "    session: SessionIdField\n",
            f'    session: SessionIdField\n    {FIELD}: str = "whatever that says"\n',
        )
        for package in ("emulators", "benchmarks", "tests"):
            (self.path / package).symlink_to(ROOT / package)
        self.set(ROOT)

    def upgrade(self) -> None:
        """Who starts from now on is tomorrow's."""
        self.set(self._tomorrow)

    def roll_back(self) -> None:
        """Who starts from now on is today's."""
        self.set(ROOT)

    def set(self, source: Path) -> None:
        """Leads the packages' names to those of a source."""
        for package in PACKAGES:
            name = self.path / package
            name.with_suffix(".new").symlink_to(source / package)
            name.with_suffix(".new").replace(name)


def _replace(file: Path, before: str, after: str) -> None:
    text = file.read_text()
    assert text.count(before) == 1, f"{file} has changed"
    file.write_text(text.replace(before, after))


@contextlib.contextmanager
def beside(farlab: Installation) -> Iterator[None]:
    """A second replica of each service, of the packages that the tree has now, for as long as the context lasts."""
    config = farlab.state / "beside.toml"
    config.write_text((farlab.state / "farlab.toml").read_text())
    _replace(config, '"tunneler-1"', '"beside"')
    with contextlib.ExitStack() as stack:
        for service in PARTS[:3]:
            log = stack.enter_context((farlab.state / f"{service}.beside.log").open("wb"))
            process = subprocess.Popen(
                [sys.executable, "-m", f"services.{service}", "--config", str(config), "--port", "0"],
                cwd=farlab.tree,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=dying_with(os.getpid()),
            )
            stack.callback(_ended, process, log.name)
        yield


def _ended(process: subprocess.Popen[bytes], log: str) -> None:
    assert process.poll() is None, Path(log).read_text()
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0, Path(log).read_text()


async def restart(farlab: Installation, part: str) -> None:
    """Ends a part as an operator does; the supervisor starts it from what is there now."""
    before = farlab.children()[part]
    assert farlab.kill(part, signal.SIGTERM)
    async with asyncio.timeout(90):
        while farlab.children().get(part) in (before, None) or part not in farlab.well():
            await asyncio.sleep(0.1)


async def versions(farlab: Installation) -> dict[str, Counter[bool]]:
    """By source, how many of its messages have the field of tomorrow and how many have not."""
    configuration = load(farlab.state / "farlab.toml")
    found: dict[str, Counter[bool]] = {}
    broker = await connect(configuration, "operator-cli")
    try:
        async for message in stored(broker.client, "SESSIONS", configuration.subjects.sessions()):
            body = json.loads(message.body)
            found.setdefault(body["source"], Counter())[FIELD in body] += 1
    finally:
        await broker.close()
    return found


@pytest.mark.timeout(600)
async def test_an_upgrade_and_its_rollback_disturb_no_session(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    with installation(tmp_path, tree=tree.path) as farlab:
        async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as http:
            servers = [(user, f"s{number}") for number in range(SERVERS // 2) for user in ACCOUNTS]
            users, over, doubled = Users(farlab, servers, http), asyncio.Event(), set[str]()
            watching = [
                asyncio.create_task(users.look()),
                asyncio.create_task(watch_for_doubles(farlab, doubled)),
            ]
            living = [asyncio.create_task(users.live(server, over)) for server in servers]
            try:
                await visited(users)
                tree.upgrade()
                with beside(farlab):
                    await visited(users)
                    for part in PARTS:
                        await restart(farlab, part)
                        await visited(users)
                    tree.roll_back()
                    for part in reversed(PARTS):
                        await restart(farlab, part)
                        await visited(users)
                over.set()
                async with asyncio.timeout(120):
                    await asyncio.gather(*living)
            finally:
                await end([*watching, *living])
        verdict = await settled(farlab, frozenset({"stopped"}), 60)
        assert [*verdict.wrong, *doubled, *users.crossed] == []
        assert set(verdict.outcomes) == {"stopped"}
        said = await versions(farlab)
        assert {source: set(counted) for source, counted in said.items() if len(counted) == 2} == {
            f"farlab/{service}": {True, False} for service in ("accounts", "hpc-launcher", "hub-bridge", "tunneler")
        }, said
        print(f"sessions={verdict.sessions} visits={users.visits} said={said}")  # noqa: T201
    assert farlab.processes_left() == 0


async def visited(users: Users) -> None:
    """Waits until every server was visited once more, on the average."""
    wanted = users.visits + len(users.servers)
    async with asyncio.timeout(120):
        while users.visits < wanted:
            await asyncio.sleep(0.1)
