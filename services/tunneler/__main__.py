"""`python -m services.tunneler --config farlab.toml`."""

import sys

from services._runtime.service import main
from services.tunneler.app import build
from services.tunneler.settings import tunneler_settings

if __name__ == "__main__":
    sys.exit(main("tunneler", build, tunneler_settings))
