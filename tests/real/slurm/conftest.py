"""The real Slurm site for the tests of this folder: one for all of them."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.real.slurm.site import RealSlurm, missing, real_slurm

REAL = [
    pytest.mark.real,
    pytest.mark.xdist_group("slurm"),
    pytest.mark.skipif(
        bool(missing()) and not os.environ.get("FARLAB_NO_SKIPS"),
        reason=f"needs {missing()}; `.ci/run` takes them as root from Debian's slurm-wlm, slurmrestd, munge ...",
    ),
]


@pytest.fixture(scope="session")
def real() -> Iterator[RealSlurm]:
    """The site, running."""
    root = Path(tempfile.mkdtemp(prefix="farlab-slurm-"))
    root.chmod(0o755)
    try:
        with real_slurm(root) as site:
            yield site
    finally:
        shutil.rmtree(root)
