"""`python -m services.cloud_launcher --config farlab.toml`."""

import sys

from services._runtime.service import main
from services.cloud_launcher.app import SERVICE, build
from services.cloud_launcher.settings import launcher_settings

if __name__ == "__main__":
    sys.exit(main(SERVICE, build, launcher_settings))
