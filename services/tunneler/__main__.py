"""`python -m services.tunneler --config farlab.toml`."""

import sys

from services._runtime.service import main
from services.tunneler.app import build

if __name__ == "__main__":
    sys.exit(main("tunneler", build))
