"""UNICORE/X for the tests of this folder: one server for all of them, its logs kept where a test fails."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.real.unicore import artifacts
from tests.real.unicore.server import UnicoreX
from tests.real.unicore.sites import USERS, Emulated, Real, Site

KEPT_LOGS = Path(__file__).parents[3] / "build" / "unicorex-logs"
REAL = [
    pytest.mark.real,
    pytest.mark.xdist_group("unicorex"),
    pytest.mark.skipif(
        bool(artifacts.missing_tools()) and not os.environ.get("FARLAB_NO_SKIPS"),
        reason=f"not installed: {', '.join(artifacts.missing_tools())}",
    ),
]


@pytest.fixture(scope="session")
def identity_provider_port() -> int:
    """Where the identity provider listens when a test starts one: sites are told so before."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


@pytest.fixture(scope="session")
def unicorex(
    tmp_path_factory: pytest.TempPathFactory, identity_provider_port: int, request: pytest.FixtureRequest
) -> Iterator[UnicoreX]:
    """UNICORE/X, running."""
    server = UnicoreX(
        tmp_path_factory.mktemp("unicorex"), USERS, userinfo_url=f"http://127.0.0.1:{identity_provider_port}/userinfo"
    )
    failed = request.session.testsfailed
    try:
        server.start()
        yield server
    finally:
        server.stop()
        if request.session.testsfailed > failed:
            server.keep_logs(KEPT_LOGS)


@pytest.fixture(params=["emulated", pytest.param("real", marks=REAL)])
async def site(request: pytest.FixtureRequest, tmp_path: Path, identity_provider_port: int) -> AsyncIterator[Site]:
    """A site, each kind in its turn."""
    if request.param == "real":
        yield Real(request.getfixturevalue("unicorex"))
        return
    emulated = Emulated(tmp_path, f"http://127.0.0.1:{identity_provider_port}/userinfo")
    await emulated.emulator.__aenter__()
    try:
        yield emulated
    finally:
        await emulated.emulator.__aexit__()
