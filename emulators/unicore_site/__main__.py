"""`python -m emulators.unicore_site --config FILE`: runs until it is told to stop."""

from __future__ import annotations

import os
import signal
import sys

from emulators.program import run
from emulators.unicore_site.configuration import SiteConfiguration, load
from emulators.unicore_site.site import UnicoreSite


def _site(configuration: SiteConfiguration) -> UnicoreSite:
    return UnicoreSite(configuration, crash=lambda: os.kill(os.getpid(), signal.SIGKILL))


if __name__ == "__main__":
    sys.exit(run("UNICORE site", load, _site, lambda site: f"at {site.base_url}"))
