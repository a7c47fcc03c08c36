"""The deciders' small worlds as CI runs them: a budget of new seeds, an exact replay, every planted defect caught."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulation.deciders.__main__ import SEES
from tests.simulation.deciders.world import World
from tests.simulation.mutations import planted

ROOT = Path(__file__).parents[2]
SECONDS = os.environ.get("FARLAB_DECIDERS_SECONDS", "3")
"""The budget of new seeds; `.ci/run` gives more."""
SEEDS = 3_000


def test_new_seeds_show_no_violation() -> None:
    command = [sys.executable, "-m", "tests.simulation.deciders", "--seconds", SECONDS, "--processes", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    assert "violated=0" in done.stdout
    assert int(done.stdout.partition("scenarios=")[2].split()[0]) >= 500


def test_a_seed_replays_exactly_and_gets_somewhere() -> None:
    worlds = [World(59) for _ in range(2)]
    assert [world.run() for world in worlds] == [[], []]
    assert worlds[0].said == worlds[1].said
    said = {line.split()[1] for seed in range(500) for line in _told(seed)}
    assert {"ServerReady", "TunnelLost", "SessionEnded", "StartRejected", "StopRequested"} <= said


def _told(seed: int) -> list[str]:
    world = World(seed)
    world.run()
    return world.said


@pytest.mark.parametrize("name", SEES)
def test_every_planted_defect_is_caught(name: str) -> None:
    with planted(name):
        assert any(World(seed).run() for seed in range(SEEDS)), f"{name} was not seen in {SEEDS} worlds"
