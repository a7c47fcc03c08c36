"""The hub on PostgreSQL: killed with a server that runs and one that waits, and its database killed under it."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from schemas.lifecycle import Ended, Ready, Submitted
from services._runtime.vault import write_secret_file
from tests.real.postgresql.server import Postgres, missing
from tests.services.hub_bridge.installation import Hub, installation, no_secret_is_left

pytestmark = [
    pytest.mark.real,
    pytest.mark.timeout(150),
    pytest.mark.skipif(
        bool(missing()) and not os.environ.get("FARLAB_NO_SKIPS"),
        reason=f"needs {missing()}; `.ci/run` takes it from Debian's postgresql, as root",
    ),
]


@pytest.fixture
def postgres() -> Iterator[Postgres]:
    root = Path(tempfile.mkdtemp(prefix="farlab-postgres-"))
    root.chmod(0o755)
    server = Postgres(root)
    try:
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(root)


async def test_a_hub_on_postgresql_outlives_its_own_end_and_that_of_its_database(
    postgres: Postgres, tmp_path: Path
) -> None:
    write_secret_file(tmp_path / "database.url", postgres.url().replace("://", "+psycopg://").encode())
    users = ["ada", "ben", "cleo"]
    async with installation(tmp_path, users, 'database_url_file = "database.url"') as (hub, others, broker):
        await hub.start()
        await hub.start_server("ada")
        await hub.until("ada")
        others.queue.clear()
        await hub.start_server("ben")
        waiting = await others.until("ben", Submitted)

        hub.stop(signal.SIGKILL)
        await hub.start()
        others.queue.set()
        for user in ("ada", "ben"):
            await hub.until(user, seconds=60)
            assert (await hub.visit(user))["session"] == others.sessions(user)[-1]
        assert others.sessions("ben") == [waiting]

        postgres.stop()
        assert (await hub.visit("ada"))["session"] == others.sessions("ada")[-1], "who is in needs no database"
        postgres.start()
        await eventually_starts(hub, "cleo")
        await hub.until("cleo")

        kept = postgres.rows("select users.name from spawners join users on users.id = user_id where server_id > 0")
        assert sorted(kept) == [(user,) for user in users]
        assert not list((tmp_path / "hub").glob("*.sqlite"))
        for user in users:
            await hub.stop_server(user)
            await hub.until(user, ready=False)
            [session] = others.sessions(user)
            assert isinstance(others.state(session), Ended)
            assert not isinstance(others.state(session), Ready)
        assert postgres.password not in hub.log_text()
        await no_secret_is_left(broker)


async def eventually_starts(hub: Hub, user: str) -> None:
    """Presses Start as a user would until the hub has found its database again."""
    async with asyncio.timeout(30):
        while (await hub.start_server(user))[0] not in (201, 202):
            await asyncio.sleep(0.2)
