"""`python -m services.hpc_launcher --config farlab.toml`."""

import sys

from services._runtime.service import main
from services.hpc_launcher.app import SERVICE, build
from services.hpc_launcher.settings import launcher_settings

if __name__ == "__main__":
    sys.exit(main(SERVICE, build, launcher_settings))
