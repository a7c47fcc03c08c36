"""The emulated identity provider of `farlab up`: its configuration, and what the rest is told of it. Starts nothing."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import tomli_w

from services._runtime.openid import EmulatedProvider
from services._runtime.settings import Configuration
from services._runtime.vault import write_secret_file
from services.operator_cli.state_folder import HOST, Ports, StateFolder

TITLE = "Demo Identity Provider"
CLIENT = "farlab"


def emulated(source: Configuration) -> EmulatedProvider | None:
    """The users of the emulated provider, where the operator wants one."""
    return source.shared.sign_in.emulated if source.shared.sign_in is not None else None


def write_identity_provider(state: StateFolder, provider: EmulatedProvider, ports: Ports) -> tuple[list[str], Path]:
    """Writes the provider's configuration; returns the command that runs it and the file it writes once it listens."""
    folder = state.path / "identity_provider"
    folder.mkdir(exist_ok=True, mode=0o700)
    told = folder / "ports.json"
    told.unlink(missing_ok=True)
    password, home = state.secret("password"), f"http://{HOST}:{ports.hub}/"
    table = {
        "host": HOST,
        "port": ports.identity_provider,
        "told_file": str(told),
        "title": TITLE,
        "clients": [
            {
                "client_id": CLIENT,
                "client_secret": state.secret("client.secret"),
                "redirect_uris": [f"{home}hub/oauth_callback"],
                "post_logout_redirect_uris": [home],
            }
        ],
        "people": [
            {"name": user.name, "password": password, "second_factor": user.second_factor, "claims": user.claims}
            for user in provider.users
        ],
    }
    file = folder / "identity_provider.toml"
    write_secret_file(file, tomli_w.dumps(table).encode())
    return [sys.executable, "-m", "emulators.identity_provider", "--config", str(file)], told


def sign_in_table(table: dict[str, Any], ports: Ports) -> dict[str, Any]:
    """`[sign_in]` as the services read it: with the emulated provider's addresses in place of its users. Pure."""
    told = {name: value for name, value in table.items() if name != "emulated"}
    return told | {
        "issuer": f"http://{HOST}:{ports.identity_provider}",
        "client_id": CLIENT,
        "client_secret_file": "client.secret",
        "title": TITLE,
    }
