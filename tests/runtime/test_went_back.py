"""A broker whose disk was copied back to an older state: what was read and is lost is noticed and said."""

from __future__ import annotations

import asyncio
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from services._runtime.vault import make_keys
from tests.runtime.test_follower import ALL, append, opened, until
from tests.runtime.test_service_main import configured
from tests.support.broker import NatsServer, nats_server
from tests.support.samples import Story


def put_back(server: NatsServer, copy: Path) -> None:
    """The disk as it was, in place of what came since. The server is down."""
    shutil.rmtree(server.folder / "jetstream")
    shutil.copytree(copy, server.folder / "jetstream")


async def kept(server: NatsServer, copy: Path) -> None:
    """A copy of the disk as it is now."""
    server.stop()
    shutil.copytree(server.folder / "jetstream", copy)
    await server.start()


@pytest.mark.parametrize("since", [0, 1, 4])
async def test_a_log_that_went_back_is_noticed_however_much_was_written_since(tmp_path: Path, since: int) -> None:
    seen: list[int] = []
    async with nats_server(tmp_path) as server, opened(server) as log:
        await append(log, Story().requested())
        await kept(server, tmp_path / "copy")
        following = await log.follow("SESSIONS", ALL, lambda recorded: seen.append(recorded.sequence))
        for _ in range(2):
            await append(log, Story().requested())
        await until(lambda: seen == [1, 2, 3])
        server.stop(signal.SIGKILL)
        put_back(server, tmp_path / "copy")
        # Whoever is quicker than the follower gives the lost numbers to new messages.
        quick = NatsServer(server.folder)
        await quick.start()
        async with opened(quick) as other:
            for _ in range(since):
                await append(other, Story().requested())
        quick.stop()
        await server.start()
        async with asyncio.timeout(15):
            how = await log.past_changed()
        assert "SESSIONS" in how
        assert ("ends at message" in how) == (since < 2)
        await following.close()


async def test_a_broker_that_kept_everything_changes_no_past(tmp_path: Path) -> None:
    seen: list[int] = []
    async with nats_server(tmp_path) as server, opened(server) as log:
        following = await log.follow("SESSIONS", ALL, lambda recorded: seen.append(recorded.sequence))
        for count in range(1, 4):
            await append(log, Story().requested())
            server.stop(signal.SIGKILL)
            await server.start()
            await append(log, Story().requested())
            await until(lambda count=count: len(seen) == 2 * count)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await log.past_changed()
        await following.close()


async def test_a_service_ends_with_one_line_so_that_it_is_started_on_what_there_is(tmp_path: Path) -> None:
    (tmp_path / "nats").mkdir()
    async with nats_server(tmp_path / "nats") as server:
        async with opened(server) as log:
            await append(log, Story().requested())
            await kept(server, tmp_path / "copy")
            await append(log, Story().requested())
        file = configured(tmp_path, server.url)
        make_keys(tmp_path / "keys")
        port_file = tmp_path / "port"
        command = [sys.executable, "-m", "services.accounts", "--config", str(file), "--port-file", str(port_file)]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True)
        try:
            await until(port_file.exists, 60)
            server.stop(signal.SIGKILL)
            put_back(server, tmp_path / "copy")
            await server.start()
            _, said = await asyncio.to_thread(process.communicate, timeout=60)
        finally:
            process.kill()
            process.wait()
        assert process.returncode == 2
        [line] = [line for line in said.splitlines() if line.startswith("farlab-accounts:")]
        assert "the event log went back to an older state" in line
        assert "Traceback" not in said
