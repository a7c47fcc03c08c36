"""A command that only reads is there at once: clients of sites are loaded by who needs them."""

from __future__ import annotations

import json
import subprocess
import sys

HEAVY = ("asyncssh", "kubernetes", "pyunicore", "textual")


def test_the_command_loads_no_client_before_it_needs_one() -> None:
    words = (
        f"import json, sys, services.operator_cli.__main__; print(json.dumps([m for m in {HEAVY} if m in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", words], capture_output=True, check=True, timeout=60)
    assert json.loads(done.stdout) == []
