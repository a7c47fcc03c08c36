"""`python -m services.hpc_launcher --config farlab.toml`."""

import sys

from services._runtime.service import main
from services.hpc_launcher.app import SERVICE, build

if __name__ == "__main__":
    sys.exit(main(SERVICE, build))
