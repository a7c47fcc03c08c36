"""UNICORE/X's released artifacts, resolved by name with Maven into a folder that is kept. Builds nothing."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
from pathlib import Path

POM = Path(__file__).with_name("pom.xml")
RESOLVE_SECONDS = 600


def missing_tools() -> list[str]:
    """What has to be installed before the server can be had: JDK 17 and Maven."""
    return [tool for tool in ("java", "mvn") if shutil.which(tool) is None]


def jars() -> Path:
    """The folder with the server's jars. Resolved once for a pom, whoever asks; raises AssertionError with the log."""
    home = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "farlab-tests"
    home.mkdir(parents=True, exist_ok=True)
    folder = home / f"unicorex-{hashlib.sha256(POM.read_bytes()).hexdigest()[:16]}"
    with (home / "unicorex.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            _resolve(folder)
    return folder


def _resolve(folder: Path) -> None:
    unfinished = folder.with_suffix(".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    command = [
        *("mvn", "-B", "-q", "-ntp", "-f", str(POM), "dependency:copy-dependencies"),
        *(f"-DoutputDirectory={unfinished}", "-DincludeScope=runtime"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=RESOLVE_SECONDS, check=False)
    assert done.returncode == 0, f"UNICORE/X could not be resolved:\n{done.stdout[-4000:]}{done.stderr[-2000:]}"
    unfinished.rename(folder)
