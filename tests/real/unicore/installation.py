"""An installation of Farlab whose one system is UNICORE/X itself, reached through a login node. Starts no site."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import tomli_w

from emulators.login_node.node import LoginNode
from tests.real.unicore.configuration import ISSUER
from tests.real.unicore.server import UnicoreX

SYSTEM = "real-hpc"
NODE = "127.30.0.41"


def write(folder: Path, server: UnicoreX, login: LoginNode, key_file: Path, launcher_port: int) -> Path:
    """Writes the configuration as an operator would; the file to give to `farlab up`."""
    (folder / "systems").mkdir(parents=True)
    for name, file in (
        ("ca.pem", server.trust.ca_file),
        ("delegation.pem", server.trust.delegation_key_file),
        ("id_ed25519", key_file),
        ("known_hosts", login.folder / "known_hosts"),
    ):
        shutil.copy(file, folder / "systems" / name)
    system = {
        "title": "UNICORE/X",
        "site": {
            "backend": "unicore",
            "url": server.base_url,
            "ca_file": "ca.pem",
            "issuer_dn": ISSUER,
            "delegation_key_file": "delegation.pem",
            "poll_seconds": 0.5,
            "longest_poll_seconds": 5.0,
            "timeout_seconds": 20.0,
            "notifications_url": f"http://127.0.0.1:{launcher_port}",
        },
        "reach": {
            "reach": "ssh",
            "login_nodes": [f"{login.configuration.host}:{login.port}"],
            "user": login.configuration.user,
            "key_file": "id_ed25519",
            "known_hosts_file": "known_hosts",
            "networks": ["127.30.0.0/24"],
        },
        "job": {"python": sys.executable, "node_address": NODE, "ports": [20_000, 32_000]},
        "partitions": {"batch": {"max_nodes": 4, "max_runtime_seconds": 86_400}},
    }
    (folder / "systems" / f"{SYSTEM}.toml").write_text(tomli_w.dumps(system))
    access = {"site_identity": "CN=Ada", "accounts": [{"name": "ada1", "projects": {"ztrain": ["batch"]}}]}
    farlab = {
        "installation": {"prefix": "farlab", "hub": "local", "systems_folder": "systems"},
        "accounts": {"users": [{"name": "ada", "systems": {SYSTEM: access}}]},
    }
    file = folder / "farlab.toml"
    file.write_text(tomli_w.dumps(farlab))
    return file
