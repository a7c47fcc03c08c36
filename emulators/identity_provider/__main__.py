"""`python -m emulators.identity_provider --config FILE`: runs until it is told to stop."""

from __future__ import annotations

import sys

from emulators.identity_provider.configuration import load
from emulators.identity_provider.provider import IdentityProvider
from emulators.program import run

if __name__ == "__main__":
    sys.exit(run("identity provider", load, IdentityProvider, lambda provider: f"at {provider.issuer}"))
