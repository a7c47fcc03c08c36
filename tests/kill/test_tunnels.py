"""What leads to many live websockets is killed: everybody is back soon, and nobody at another's server."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.kill.tunnels import run

TUNNELS = int(os.environ.get("FARLAB_TUNNELS", "40"))
"""The budget; `.ci/run` gives more."""


@pytest.mark.timeout(900)
async def test_everybody_is_back_and_nobody_at_anothers_server(tmp_path: Path) -> None:
    blows = await run(tmp_path, TUNNELS)
    assert blows.crossed == []
    assert blows.stale == []
    assert set(blows.waits) == {"connection", "login_node", "replica", "replica_back"}
    assert all(len(waits) == TUNNELS for waits in blows.waits.values())
    # A replica's lease has to run out before another may take over; the rest is reconnecting and proving.
    assert max(max(waits) for waits in blows.waits.values()) < 60
