"""What the services of a real `farlab up` use at rest: processor time and memory. Starts no user's server.

Budgets: together under 0.02 of a core, each under 90 MB. Run: `python -m benchmarks.at_rest --json`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
READY_SECONDS = 120.0
SETTLE_SECONDS = 10.0
SERVICE = re.compile(r"-m services\.(accounts|cloud_launcher|hpc_launcher|tunneler) ")


@contextlib.contextmanager
def installation() -> Iterator[int]:
    """The process id of a `farlab up` that is ready."""
    with tempfile.TemporaryDirectory(prefix="farlab-bench-") as folder:
        state, said = Path(folder, "state"), Path(folder, "up.log")
        command = [sys.executable, "-m", "services.operator_cli", "up", "--state", str(state), "--port", "0"]
        with said.open("wb") as log:
            process = subprocess.Popen(
                [*command, "--config", str(ROOT / "farlab.toml")],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            until = time.monotonic() + READY_SECONDS
            while "Ready in" not in said.read_text():
                if process.poll() is not None or time.monotonic() > until:
                    raise SystemExit(f"farlab up did not become ready:\n{said.read_text()}")
                time.sleep(0.1)
            yield process.pid
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(60)


def services(parent: int) -> dict[str, int]:
    """The process ids of the services that a supervisor runs, by name."""
    found = {}
    for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
        line = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        if named := SERVICE.search(line):
            found[named[1].replace("_", "-")] = int(pid)
    return found


def cpu_seconds(pid: int) -> float:
    """What a process has used of a core so far."""
    used = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(used[11]) + int(used[12])) / os.sysconf("SC_CLK_TCK")


def memory_mb(pid: int) -> float:
    """What a process holds in memory, in millions of bytes."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def measure(seconds: float) -> dict[str, float]:
    """The figures of one installation at rest for so long."""
    with installation() as parent:
        time.sleep(SETTLE_SECONDS)
        running = services(parent)
        before, begun = {name: cpu_seconds(pid) for name, pid in running.items()}, time.monotonic()
        time.sleep(seconds)
        took = time.monotonic() - begun
        shares = {name: (cpu_seconds(pid) - before[name]) / took for name, pid in running.items()}
        figures: dict[str, float] = {"services": len(running), "seconds": round(took, 1)}
        figures["cores_together"] = round(sum(shares.values()), 4)
        for name, pid in running.items():
            figures[f"{name}_cores"] = round(shares[name], 4)
            figures[f"{name}_mb"] = round(memory_mb(pid), 1)
        return figures


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    figures = measure(options.seconds)
    print(json.dumps(figures) if options.json else "\n".join(f"{name}: {value}" for name, value in figures.items()))


if __name__ == "__main__":
    main()
