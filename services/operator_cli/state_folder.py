"""The state folder of `farlab up`: keys, ports and the effective configuration. Starts nothing.

The configuration in the folder is the operator's own with every address of an emulated site filled in; services read
only that one.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import asyncssh
import msgspec
import tomli_w
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

from services._runtime.configuration import ConfigurationError, read_toml
from services._runtime.settings import Configuration, load
from services._runtime.systems import System
from services._runtime.vault import make_keys, write_secret_file
from services.operator_cli.nats_config import make_nkeys, server_configuration


class Ports(msgspec.Struct, kw_only=True):
    """The ports an installation keeps over restarts."""

    nats: int
    hub: int
    hub_api: int
    proxy_api: int
    launcher: int
    remote_forward: dict[str, int]


class StateFolder:
    """One installation's folder; `lock` makes sure that only one `farlab up` uses it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder.absolute()
        self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.configuration_file = self.path / "farlab.toml"

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Raises ConfigurationError when another `farlab up` uses the folder."""
        with (self.path / "lock").open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ConfigurationError(
                    f"{self.path}: another `farlab up` uses this folder; stop it, or name another with --state"
                ) from None
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            yield

    def ports(self, systems: list[str], public_port: int) -> Ports:
        """The ports of an earlier start where they are free, else free ones; kept for the next."""
        file = self.path / "ports.json"
        try:
            earlier = msgspec.json.decode(file.read_bytes(), type=Ports)
        except (OSError, msgspec.MsgspecError):
            earlier = Ports(nats=0, hub=0, hub_api=0, proxy_api=0, launcher=0, remote_forward={})
        ports = Ports(
            nats=_free(earlier.nats),
            hub=public_port or _free(earlier.hub),
            hub_api=_free(earlier.hub_api),
            proxy_api=_free(earlier.proxy_api),
            launcher=_free(earlier.launcher),
            remote_forward={name: _free(earlier.remote_forward.get(name, 0)) for name in systems},
        )
        file.write_bytes(msgspec.json.encode(ports))
        return ports

    def secret(self, name: str) -> str:
        """A secret in a file of its own, 0600, made at the first start: passwords and tokens of this installation."""
        file = self.path / name
        if not file.exists():
            write_secret_file(file, secrets.token_hex(6 if name == "password" else 32).encode())
        return file.read_text()

    def make_keys(self) -> None:
        """Makes every key that is missing: of services, of the launcher's delegation, of the tunneler's SSH."""
        make_keys(self.path / "keys")
        ssh_key = self.path / "keys" / "id_ed25519"
        if not ssh_key.exists():
            key = asyncssh.generate_private_key("ssh-ed25519")
            write_secret_file(ssh_key, key.export_private_key())
            ssh_key.with_suffix(".pub").write_bytes(key.export_public_key())
        delegation = self.path / "keys" / "delegation.pem"
        if not delegation.exists():
            private = ed25519.Ed25519PrivateKey.generate()
            write_secret_file(
                delegation,
                private.private_bytes(
                    serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
                ),
            )
            (self.path / "keys" / "delegation.pub.pem").write_bytes(
                private.public_key().public_bytes(
                    serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
                )
            )

    def write_nats_configuration(self, configuration: Configuration, ports: Ports) -> Path:
        """Writes `nats.conf` with a signed-in user per service; returns the file."""
        file = self.path / "nats" / "nats.conf"
        file.parent.mkdir(exist_ok=True, mode=0o700)
        text = server_configuration(
            subjects=configuration.subjects,
            hub=configuration.shared.installation.hub,
            public_keys=make_nkeys(self.path / "nkeys"),
            host="127.0.0.1",
            port=ports.nats,
            folder=file.parent,
        )
        write_secret_file(file, text.encode())
        return file

    def write_configuration(
        self, source: Configuration, ports: Ports, sites: dict[str, dict[str, str]], hub_bridge: dict[str, Any]
    ) -> Configuration:
        """Writes the effective configuration and reads it back. `sites` has what emulated sites say of themselves."""
        tables = read_toml(source.file)
        tables.setdefault("installation", {}).update(systems_folder="systems", keys_folder="keys")
        tables["nats"] = {"servers": [f"nats://127.0.0.1:{ports.nats}"], "nkeys_folder": "nkeys"}
        tables["hub_bridge"] = {**tables.get("hub_bridge", {}), **hub_bridge}
        folder = self.path / "systems"
        folder.mkdir(exist_ok=True)
        for stale in folder.glob("*.toml"):
            stale.unlink()
        origin = source.file.parent / source.shared.installation.systems_folder
        for name, system in source.systems.items():
            table = read_toml(origin / f"{name}.toml")
            if system.emulated is not None and name in sites:
                self._fill_in(table, system, ports, sites[name])
            _write(folder / f"{name}.toml", table)
        _write(self.configuration_file, tables)
        return load(self.configuration_file)

    def _fill_in(self, table: dict[str, Any], system: System, ports: Ports, site: dict[str, str]) -> None:
        keys = self.path / "keys"
        table["site"].update(
            url=site["base_url"],
            ca_file=site["ca"],
            delegation_key_file=str(keys / "delegation.pem"),
            notifications_url=f"http://127.0.0.1:{ports.launcher}",
        )
        table["reach"].update(
            login_nodes=[site["login_node"]], key_file=str(keys / "id_ed25519"), known_hosts_file=site["known_hosts"]
        )
        listen_host, listen_port = site["login_node"].rpartition(":")[0], ports.remote_forward[system.name]
        table["reach"]["remote_forward"] = {
            "listen_host": listen_host,
            "listen_port": listen_port,
            "hub_host": "127.0.0.1",
            "hub_port": ports.hub_api,
        }
        job = table.setdefault("job", {})
        job.update(python=sys.executable, hub_api_url=f"http://{listen_host}:{listen_port}/hub/api")

    def write_emulators(self, source: Configuration, ports: Ports) -> dict[str, tuple[Path, Path]]:
        """Writes what the emulated login node and site of each system are told; returns the two files by system."""
        files: dict[str, tuple[Path, Path]] = {}
        accounts = source.sections.get("accounts", {})
        for name, system in source.systems.items():
            if system.emulated is None:
                continue
            folder = self.path / "sites" / name
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            login = {
                "folder": str(folder / "login"),
                "host": system.emulated.login_node,
                "authorized_keys": [(self.path / "keys" / "id_ed25519.pub").read_text()],
                "networks": list(system.reach.networks),
                "listen": [f"{system.emulated.login_node}:{ports.remote_forward[name]}"],
            }
            site = {
                "folder": str(folder / "site"),
                "queues": {
                    each: {
                        "max_nodes": partition.max_nodes,
                        "gpus_per_node": partition.gpus_per_node,
                        "max_runtime_seconds": partition.max_runtime_seconds,
                    }
                    for each, partition in system.partitions.items()
                },
                "compute_nodes": system.emulated.compute_nodes,
                "jobs_per_node": 24,
                "queue_seconds": system.emulated.queue_seconds,
                "path": [str(Path(sys.executable).parent)],
                "users": _site_users(accounts.get("users", []), name),
                "trusted": {system.site.issuer_dn: str(self.path / "keys" / "delegation.pub.pem")},
            }
            files[name] = (folder / "login.toml", folder / "site.toml")
            _write(files[name][0], login)
            _write(files[name][1], site)
        return files


def _site_users(users: list[dict[str, Any]], system: str) -> list[dict[str, Any]]:
    known = []
    for user in users:
        here = user.get("systems", {}).get(system)
        if here is not None:
            accounts = here.get("accounts", [])
            groups = sorted({project for account in accounts for project in account["projects"]})
            known.append(
                {"dn": here.get("site_identity", ""), "uids": [each["name"] for each in accounts], "groups": groups}
            )
    return known


def _write(file: Path, table: dict[str, Any]) -> None:
    temporary = file.with_suffix(".new")
    temporary.write_text(tomli_w.dumps(table))
    temporary.replace(file)


def _free(wanted: int) -> int:
    """`wanted` if it is free, else a free port."""
    for port in (wanted, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise ConfigurationError("no free port on 127.0.0.1; end some programs")


def read_ports(file: Path) -> dict[str, str]:
    """What an emulator says of itself; empty until it does."""
    try:
        said: dict[str, str] = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return said
