"""`python -m emulators.login_node --config FILE`: runs until it is told to stop."""

from __future__ import annotations

import sys

from emulators.login_node.node import LoginNode, load
from emulators.program import run

if __name__ == "__main__":
    sys.exit(run("login node", load, LoginNode, lambda node: f"at {node.configuration.host}:{node.port}"))
