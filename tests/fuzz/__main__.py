"""`python -m tests.fuzz --seconds 60`: each target under atheris, guided by the coverage of our own code.

What breaks a target is kept in the folder that is told, and fails the run.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

INSTRUMENTED = ["schemas", "services"]


def _one(name: str, arguments: list[str]) -> None:
    """Fuzzes one target in this process; libFuzzer ends it."""
    import atheris

    with atheris.instrument_imports(include=INSTRUMENTED):
        from tests.fuzz.targets import TARGETS
    atheris.Setup([sys.argv[0], *arguments], TARGETS[name])
    atheris.Fuzz()


def main() -> int:
    from tests.fuzz.targets import TARGETS, seeds

    parser = argparse.ArgumentParser(prog="fuzz", description="Fuzzes what comes from outside.")
    parser.add_argument("targets", nargs="*", help="which; all if none is named")
    parser.add_argument("--seconds", type=int, default=30, help="for each target")
    parser.add_argument("--findings", type=Path, default=None, help="where inputs that break something are kept")
    options = parser.parse_args()
    broken = []
    with tempfile.TemporaryDirectory(prefix="farlab-fuzz-") as temporary:
        for name in options.targets or TARGETS:
            corpus = Path(temporary) / name
            corpus.mkdir()
            for number, data in enumerate(seeds(name)):
                (corpus / f"seed-{number}").write_bytes(data)
            findings = (options.findings or Path(temporary)) / f"{name}-"
            command = [sys.executable, "-m", "tests.fuzz", str(corpus)]
            command += [f"-max_total_time={options.seconds}", f"-artifact_prefix={findings}", "-max_len=4096"]
            done = subprocess.run(
                command, env={**os.environ, "FARLAB_FUZZ": name}, capture_output=True, text=True, check=False
            )
            executed = [line for line in done.stderr.splitlines() if line.startswith("Done ")]
            print(f"{name}: {executed[-1] if executed else 'BROKEN'}", flush=True)
            if done.returncode:
                broken.append(name)
                print((done.stdout + done.stderr)[-4000:], flush=True)
    print(f"targets={len(options.targets or TARGETS)} broken={len(broken)}")
    return 1 if broken else 0


if __name__ == "__main__":
    if fuzzed := os.environ.get("FARLAB_FUZZ"):
        _one(fuzzed, sys.argv[1:])
    else:
        sys.exit(main())
