"""Every order as CI runs it: a budget of new seeds, an exact replay, every planted defect caught."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SECONDS = os.environ.get("FARLAB_ORDERS_SECONDS", "5")
"""The budget of new seeds; `.ci/run` gives more."""


def _orders(*arguments: str, seconds: float = 110) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.simulation.orders", *arguments]
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=seconds, check=False
    )


@pytest.mark.timeout(900)
def test_new_seeds_show_no_violation() -> None:
    done = _orders("--seconds", SECONDS, "--processes", "1", seconds=120 + 3 * float(SECONDS))
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr
    assert "violated=0" in done.stdout
    assert int(done.stdout.partition("orders=")[2].split()[0]) >= 100


def test_a_seed_replays_exactly() -> None:
    first, second = (_orders("--seed", "59") for _ in range(2))
    assert first.returncode == 0, first.stdout + first.stderr
    assert "SessionEnded" in first.stdout
    assert first.stdout == second.stdout


@pytest.mark.timeout(400)
def test_every_planted_defect_is_caught() -> None:
    done = _orders("--mutations", seconds=380)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("missed=0\n")


@pytest.mark.timeout(400)
def test_no_crowd_exceeds_a_limit_or_leaks_a_share_and_who_waits_gets_in() -> None:
    """Hundreds of starts, stops, limits that move, and killed replicas of the accounts service."""
    done = _orders("--crowds", "4", seconds=380)
    assert done.returncode == 0, done.stdout + done.stderr
    said = dict(word.split("=") for word in done.stdout.splitlines()[-1].split())
    assert int(said["waited"]) >= 100
    assert int(said["admitted_after_waiting"]) >= 10
