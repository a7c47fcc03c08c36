"""`python -m services.accounts --config farlab.toml`."""

import sys

from services._runtime.service import main
from services.accounts.build import build
from services.accounts.settings import accounts_settings

if __name__ == "__main__":
    sys.exit(main("accounts", build, accounts_settings))
