"""The main job through UNICORE/X: JupyterLab as its job, reached by a tunnel, used, stopped, and nothing left there."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from services.operator_cli.up import left_over
from tests.real.unicore.calls import client, until
from tests.real.unicore.conftest import REAL
from tests.real.unicore.installation import NODE, SYSTEM, write
from tests.real.unicore.server import ROOT, UnicoreX
from tests.real.unicore.sites import Real
from tests.support.site import login_node

pytestmark = [*REAL, pytest.mark.timeout(400)]


async def test_the_check_starts_uses_and_stops_a_server_at_a_real_site(unicorex: UnicoreX, tmp_path: Path) -> None:
    async with login_node(tmp_path, host="127.30.0.5", networks=["127.30.0.0/24"]) as login:
        file = write(tmp_path / "farlab", unicorex, login, tmp_path / "id_ed25519", launcher_port=9)
        before = {folder.name for folder in unicorex.jobs.iterdir()}
        command = [sys.executable, "-m", "services.operator_cli", "up", "--check", "--json", "--config", str(file)]
        process = await asyncio.create_subprocess_exec(
            *command,
            cwd=ROOT,
            env={**os.environ, "TMPDIR": str(tmp_path)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        async with asyncio.timeout(360):
            out, err = await process.communicate()
        assert process.returncode == 0, f"{out.decode()}{err.decode()}\n{unicorex.logs(4000)}"
        [system] = json.loads(out)["systems"]
        assert (system["system"], system["problems"]) == (SYSTEM, [])
        assert any(f"on {NODE}, reached only from 127.30.0.5" in phase["detail"] for phase in system["phases"])
        assert login.opened > 0
    async with client(Real(unicorex)) as http:

        async def nothing() -> bool:
            tagged = (await http.get("/jobs", params={"tags": "farlab-installation-farlab"})).json()["jobs"]
            return not tagged and {folder.name for folder in unicorex.jobs.iterdir()} <= before

        await until(nothing)

    async def nobody() -> bool:
        return list(left_over(unicorex.jobs)) == [] and list(left_over(tmp_path / "farlab")) == []

    await until(nobody)
