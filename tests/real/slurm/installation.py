"""An installation of Farlab whose one system is the real Slurm site, reached through its sshd. Starts no site."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import tomli_w

from tests.real.openssh.sshd import TUNNELS
from tests.real.slurm.site import ACCOUNT, NODE, RealSlurm

SYSTEM = "real-slurm"


def write(folder: Path, site: RealSlurm) -> Path:
    """Writes the configuration as an operator would; the file to give to `farlab up`."""
    (folder / "systems").mkdir(parents=True)
    for file in (site.service_key, site.tunnel_key, site.sshd.known_hosts):
        shutil.copy(file, folder / "systems" / file.name)
    system = {
        "title": "Slurm",
        "site": {
            "backend": "slurm",
            "login_nodes": [site.sshd.node],
            "key_file": site.service_key.name,
            "known_hosts_file": site.sshd.known_hosts.name,
            "query_account": ACCOUNT,
            "poll_seconds": 0.5,
            "longest_poll_seconds": 5.0,
        },
        "reach": {
            "reach": "ssh",
            "login_nodes": [site.sshd.node],
            "user": TUNNELS,
            "key_file": site.tunnel_key.name,
            "known_hosts_file": site.sshd.known_hosts.name,
            "networks": ["127.30.0.0/24"],
        },
        "job": {"python": sys.executable, "node_address": NODE, "ports": [20_000, 32_000]},
        "partitions": {"batch": {"max_nodes": 1, "max_runtime_seconds": 3_600}},
    }
    (folder / "systems" / f"{SYSTEM}.toml").write_text(tomli_w.dumps(system))
    access = {"accounts": [{"name": ACCOUNT, "projects": {"ztrain": ["batch"]}}]}
    farlab = {
        "installation": {"prefix": "farlab", "hub": "local", "systems_folder": "systems"},
        "accounts": {"users": [{"name": "ada", "systems": {SYSTEM: access}}]},
    }
    file = folder / "farlab.toml"
    file.write_text(tomli_w.dumps(farlab))
    return file
