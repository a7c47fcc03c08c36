"""The coverage-guided fuzzer itself, for as long as `.ci/run` tells; a moment otherwise."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.targets import TARGETS

ROOT = Path(__file__).parents[2]
SECONDS = os.environ.get("FARLAB_FUZZ_SECONDS", "2")


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("target", TARGETS)
def test_what_comes_from_outside_is_understood_or_refused(target: str) -> None:
    pytest.importorskip("atheris", reason="atheris has no wheel for this machine")
    command = [sys.executable, "-m", "tests.fuzz", target, "--seconds", SECONDS]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "broken=0" in done.stdout
