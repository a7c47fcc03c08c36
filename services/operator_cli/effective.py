"""The configuration `farlab up` runs on: the operator's own, with every address it has chosen filled in.

Services read only that one. Starts nothing, and decides nothing the operator has decided.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import msgspec

from services._runtime.configuration import ConfigurationError, read_toml
from services._runtime.settings import Configuration, load
from services._runtime.systems import SlurmSite, SshReach, System, UnicoreSite
from services.accounts.rights.claims import rights_in
from services.accounts.rights.tree import accesses
from services.accounts.settings import accounts_settings
from services.operator_cli.emulated_clouds import write_effective_clouds
from services.operator_cli.emulated_sign_in import emulated, sign_in_table
from services.operator_cli.state_folder import HOST, Ports, StateFolder
from services.operator_cli.toml_files import write_toml

EMULATORS = (("login", "emulators.login_node"), ("site", "emulators.unicore_site"))
"""The parts of an emulated system and the modules to run."""
JOBS_PER_NODE = 24


class EmulatedSite(msgspec.Struct, frozen=True):
    """An emulated system's folder under the state folder, and what its parts say of themselves once they listen."""

    folder: Path

    def told(self, part: str) -> Path:
        """The file a part writes once it listens."""
        return self.folder / part / "ports.json"

    def says(self, part: str) -> dict[str, Any]:
        """What a part that listens says of itself."""
        said: dict[str, Any] = json.loads(self.told(part).read_text())
        return said


def write_emulators(state: StateFolder, source: Configuration, ports: Ports) -> dict[str, EmulatedSite]:
    """Writes `login.toml` and `site.toml` for the emulators of each emulated system; returns the folders by system."""
    sites: dict[str, EmulatedSite] = {}
    users = source.sections.get("accounts", {}).get("users", [])
    for name, system in source.systems.items():
        if system.emulated is None:
            continue
        folder = state.path / "sites" / name
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        (folder / "login.toml").unlink(missing_ok=True)
        if isinstance(system.reach, SshReach):
            login = {
                "folder": str(folder / "login"),
                "host": system.emulated.login_node,
                "port": ports.login[name],
                "user": system.reach.user,
                "authorized_keys": [(state.path / "keys" / "id_ed25519.pub").read_text()],
                "networks": system.reach.networks,
                "listen": [f"{system.emulated.login_node}:{ports.remote_forward[name]}"],
            }
            write_toml(folder / "login.toml", login)
        site = {
            "folder": str(folder / "site"),
            "host": HOST,
            "port": ports.site[name],
            "queues": {
                queue: {
                    "max_nodes": partition.max_nodes,
                    "gpus_per_node": partition.gpus_per_node,
                    "max_runtime_seconds": partition.max_runtime_seconds,
                }
                for queue, partition in system.partitions.items()
            },
            "compute_nodes": system.emulated.compute_nodes,
            "jobs_per_node": JOBS_PER_NODE,
            "queue_seconds": system.emulated.queue_seconds,
            "path": [str(Path(sys.executable).parent)],
            "users": [*site_users(users, name), *users_by_claims(source, system)],
            "trusted": {issuer_of(system): str(state.path / "keys" / "delegation.pub.pem")},
        }
        write_toml(folder / "site.toml", site)
        sites[name] = EmulatedSite(folder)
    return sites


def issuer_of(system: System) -> str:
    """Whose word the emulated site of a system takes. Raises ConfigurationError: only UNICORE sites are emulated."""
    if isinstance(system.site, UnicoreSite):
        return system.site.issuer_dn
    raise ConfigurationError(f"{system.name}: only a UNICORE site can be emulated; remove [emulated]")


def site_users(users: list[dict[str, Any]], system: str) -> list[dict[str, Any]]:
    """Whom an emulated site knows, from the users configured in `[accounts]`. Pure."""
    known = []
    for user in users:
        here = user.get("systems", {}).get(system, {})
        if accounts := here.get("accounts", []):
            groups = sorted({project for account in accounts for project in account["projects"]})
            known.append(
                {"dn": here.get("site_identity", ""), "uids": [each["name"] for each in accounts], "groups": groups}
            )
    return known


def users_by_claims(source: Configuration, system: System) -> list[dict[str, Any]]:
    """Whom an emulated site knows besides: those whose emulated identity provider gives them an account there. Pure."""
    provider = emulated(source)
    if provider is None:
        return []
    names = accounts_settings(source).claims
    known = []
    for user in provider.users:
        rights = rights_in({"preferred_username": user.name, **user.claims}, names)
        for access in accesses(sorted(rights.grants), rights.site_identity, {system.name: system}):
            groups = sorted({project.name for account in access.accounts for project in account.projects})
            uids = [account.name for account in access.accounts]
            known.append({"dn": access.site_identity, "uids": uids, "groups": groups})
    return known


def write_configuration(
    state: StateFolder, source: Configuration, ports: Ports, sites: dict[str, EmulatedSite]
) -> Configuration:
    """Writes the effective configuration into the state folder and reads it back. Raises ConfigurationError."""
    tables = read_toml(source.file)
    tables.setdefault("installation", {}).update(systems_folder="systems", keys_folder="keys")
    tables["nats"] = {"servers": [f"nats://{HOST}:{ports.nats}"], "nkeys_folder": "nkeys"}
    if emulated(source) is not None:
        tables["sign_in"] = sign_in_table(tables["sign_in"], ports)
    elif source.shared.sign_in is not None:
        tables["sign_in"].update(_files_of_sign_in(source))
    tables["hub_bridge"] = {**tables.get("hub_bridge", {}), **_hub_bridge(state, source, ports)}
    folder = state.path / "systems"
    folder.mkdir(exist_ok=True)
    for stale in folder.glob("*.toml"):
        stale.unlink()
    origin = source.file.parent / source.shared.installation.systems_folder
    for name, system in source.systems.items():
        table = read_toml(origin / f"{name}.toml")
        _keep_files(table, system)
        if name in sites:
            _fill_in(table, system, state, ports, sites[name])
        write_toml(folder / f"{name}.toml", table)
    write_effective_clouds(state, source, ports)
    write_toml(state.configuration_file, tables)
    return load(state.configuration_file)


def _hub_bridge(state: StateFolder, source: Configuration, ports: Ports) -> dict[str, Any]:
    for secret in ("password", "proxy.token", "operator.token"):
        state.secret(secret)
    return {
        "public_url": f"http://{HOST}:{ports.hub}",
        "hub_host": HOST,
        "hub_port": ports.hub_api,
        "proxy_api_url": f"http://{HOST}:{ports.proxy_api}",
        "proxy_token_file": "proxy.token",
        "state_folder": "hub",
        "users": known_users(source),
        "password_file": "password",
        "service_token_file": "operator.token",
        "database_url_file": "",  # a trial on one machine never writes into the database of the real hub
    }


def known_users(source: Configuration) -> list[str]:
    """The users that exist from the start: those configured in `[accounts]` and those of the emulated provider."""
    names = [str(user["name"]) for user in source.sections.get("accounts", {}).get("users", [])]
    provider = emulated(source)
    return list(dict.fromkeys([*names, *[user.name for user in (provider.users if provider else [])]]))


def _files_of_sign_in(source: Configuration) -> dict[str, str]:
    """The operator's files by their full names: the table moves to another folder, and they do not."""
    settings, folder = source.shared.sign_in, source.file.parent
    files = {"client_secret_file": settings.client_secret_file, "ca_file": settings.ca_file} if settings else {}
    return {name: str(folder / file) for name, file in files.items() if file}


def _keep_files(table: dict[str, Any], system: System) -> None:
    """Names the operator's files in full: the table moves to another folder, and they do not."""
    if isinstance(system.site, SlurmSite):
        table["site"].update(key_file=system.site.key_file, known_hosts_file=system.site.known_hosts_file)
        if system.site.rest is not None:
            table["site"]["rest"].update(jwt_key_file=system.site.rest.jwt_key_file, ca_file=system.site.rest.ca_file)
    else:
        table["site"]["delegation_key_file"] = system.site.delegation_key_file
        if system.site.ca_file:
            table["site"]["ca_file"] = system.site.ca_file
    if isinstance(system.reach, SshReach):
        table["reach"].update(key_file=system.reach.key_file, known_hosts_file=system.reach.known_hosts_file)


def _fill_in(table: dict[str, Any], system: System, state: StateFolder, ports: Ports, site: EmulatedSite) -> None:
    keys = state.path / "keys"
    said = site.says("site")
    table["site"].update(
        url=said["base_url"],
        ca_file=said["ca"],
        delegation_key_file=str(keys / "delegation.pem"),
        notifications_url=f"http://{HOST}:{ports.launcher}",
    )
    hub_host, hub_port = HOST, ports.hub_api
    if isinstance(system.reach, SshReach):
        login = site.says("login")
        hub_host, hub_port = str(login["host"]), ports.remote_forward[system.name]
        table["reach"].update(
            login_nodes=[f"{login['host']}:{login['port']}"],
            key_file=str(keys / "id_ed25519"),
            known_hosts_file=str(site.folder / "login" / "known_hosts"),
            remote_forward={
                "listen_host": hub_host,
                "listen_port": hub_port,
                "hub_host": HOST,
                "hub_port": ports.hub_api,
            },
        )
    table.setdefault("job", {}).update(python=sys.executable, hub_api_url=f"http://{hub_host}:{hub_port}/hub/api")
