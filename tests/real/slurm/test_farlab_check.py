"""The main job through Slurm and sshd: JupyterLab as its job, reached by a tunnel, used, stopped, nothing left."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.real.machine import until
from tests.real.slurm.conftest import REAL
from tests.real.slurm.installation import SYSTEM, write
from tests.real.slurm.site import NODE, RealSlurm

pytestmark = [*REAL, pytest.mark.timeout(200)]
ROOT = Path(__file__).parents[3]


async def test_the_check_starts_uses_and_stops_a_server_at_a_real_slurm_site(real: RealSlurm, tmp_path: Path) -> None:
    before, folders = real.view.processes(), set(real.jobs.glob("*"))
    file = write(tmp_path / "farlab", real)
    process = await asyncio.create_subprocess_exec(
        *[sys.executable, "-m", "services.operator_cli", "up", "--check", "--json", "--config", str(file)],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    async with asyncio.timeout(180):
        out, err = await process.communicate()
    assert process.returncode == 0, f"{out.decode()}{err.decode()}\n{real.logs()}"
    [system] = json.loads(out)["systems"]
    assert (system["system"], system["problems"]) == (SYSTEM, [])
    # Of a server on this machine everybody is near; sshd itself says that it led there.
    assert any(f"on {NODE}, reached only from 127.0.0.1" in phase["detail"] for phase in system["phases"])
    assert real.sshd.times_logged(f"target {NODE} port")
    until(lambda: not real.slurm("squeue", "--noheader").strip(), real.logs)
    until(lambda: real.view.processes() <= before, lambda: str(real.view.processes() - before))
    assert set(real.jobs.glob("*")) <= folders
