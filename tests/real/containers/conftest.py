"""One running installation for all tests of this folder."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.real.containers.engine import engine
from tests.real.containers.installation import Installation


@pytest.fixture(scope="session")
def system() -> Iterator[Installation]:
    """All of compose.yaml, up and healthy."""
    folder = Path(tempfile.mkdtemp(prefix="farlab-containers-"))
    try:
        with engine(folder) as docker:
            running = Installation(docker)
            try:
                running.up()
                yield running
            finally:
                running.down()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
