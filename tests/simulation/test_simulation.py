"""The simulation as CI runs it: a budget of new seeds, an exact replay, every planted defect caught.

Each runs as a process of its own, because the order of Python's sets is part of what a seed replays.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SECONDS = os.environ.get("FARLAB_SIMULATE_SECONDS", "6")
"""The budget of new seeds; `.ci/run` gives more."""


def _simulate(*arguments: str, seconds: float = 110) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.simulation", *arguments]
    return subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": "0"},
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )


@pytest.mark.timeout(900)
def test_new_seeds_show_no_violation() -> None:
    done = _simulate("--seconds", SECONDS, "--processes", "1", seconds=120 + 3 * float(SECONDS))
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr
    assert "lost=0 orphaned=0 doubled=0 stuck=0 leaked=0 other=0" in done.stdout
    assert int(done.stdout.partition("scenarios=")[2].split()[0]) >= 20


@pytest.mark.parametrize("seed", ["4", "59", "171"])
def test_a_seed_replays_exactly(seed: str) -> None:
    first, second = (_simulate("--seed", seed) for _ in range(2))
    assert first.returncode == 0, first.stdout + first.stderr
    assert "digest=" in first.stdout
    assert first.stdout == second.stdout


def test_a_failing_seed_is_told_with_its_faults_and_replays() -> None:
    """With a defect planted: what a developer sees, short enough to read."""
    code = (
        "import sys; from tests.simulation.mutations import planted\n"
        "from tests.simulation.__main__ import _tell\n"
        "with planted('secrets_are_forgotten_from_the_wrong_end'): sys.exit(_tell(66, None))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": "0"},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "crash hub sent request" in done.stdout
    assert "VIOLATION   leaked: secret" in done.stdout
    assert "again: make simulate SEED=66 FAULTS=" in done.stdout


@pytest.mark.timeout(900)
def test_every_planted_defect_is_caught() -> None:
    done = _simulate("--mutations", seconds=800)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("missed=0\n")
