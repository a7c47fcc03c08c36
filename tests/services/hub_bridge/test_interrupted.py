"""A start that its user interrupts, at a hub too busy to stop it: its session does not live on unseen."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace

import pytest

from schemas.lifecycle import Stopping
from services._runtime.settings import Configuration
from services.hub_bridge import spawner as module
from services.hub_bridge.bridge import ATTACHED_AS
from services.hub_bridge.spawner import HALF_STARTED, FarlabSpawner
from tests.services.hub_bridge.test_bridge import MemoryBroker, _bridge, broker, configuration
from tests.services.hub_bridge.test_sessions import tell, up_to_tunnel
from tests.support.samples import Story

__all__ = ["broker", "configuration"]


@pytest.mark.parametrize("again", [False, True])
async def test_an_interrupted_start_is_stopped_unless_it_was_started_again(
    configuration: Configuration,
    broker: MemoryBroker,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    again: bool,
) -> None:
    monkeypatch.setattr(module, "INTERRUPTED_SECONDS", 0.05)
    bridge = await _bridge(configuration, broker)
    story = Story(server_name="lab")
    await tell(broker.log, *up_to_tunnel(story))
    user = SimpleNamespace(name="ada", settings={ATTACHED_AS: bridge, HALF_STARTED: []})
    spawner = FarlabSpawner(user=user, orm_spawner=SimpleNamespace(name="lab", server=None))
    begun = asyncio.Event()

    async def waits_for_ever() -> None:
        begun.set()
        await asyncio.get_running_loop().create_future()

    monkeypatch.setattr(spawner, "_live_session", waits_for_ever)  # JupyterHub's database is not there
    starts = []
    for _ in range(2 if again else 1):
        begun.clear()
        starts.append(asyncio.create_task(spawner.start()))
        await begun.wait()
        if len(starts) == 1:
            starts[0].cancel()
            await asyncio.wait([starts[0]])
    if again:
        await asyncio.sleep(0.1)
        assert not isinstance(bridge.sessions.state(story.session), Stopping)
        starts[1].cancel()
    state = await asyncio.wait_for(
        bridge.sessions.wait_for(story.session, lambda state: isinstance(state, Stopping)), 10
    )
    assert isinstance(state, Stopping)
    assert state.stop.reason == "Its start was interrupted."
    await bridge.close()
