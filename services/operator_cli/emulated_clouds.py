"""The emulated clusters of `farlab up`: their configuration, and what the services are told of them. Starts nothing."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from schemas.base import SystemName
from services._runtime.clouds import CloudSystem
from services._runtime.configuration import read_toml
from services._runtime.settings import Configuration
from services._runtime.systems import SshReach
from services.operator_cli.state_folder import HOST, Ports, StateFolder
from services.operator_cli.toml_files import write_toml


def emulated_clouds(source: Configuration) -> Iterator[SystemName]:
    """The clouds that are emulated."""
    return (name for name, cloud in source.clouds.items() if cloud.emulated is not None)


def write_clouds(state: StateFolder, source: Configuration, ports: Ports) -> dict[SystemName, tuple[Path, Path]]:
    """Writes what each emulated cluster is started with; its file, and the kubeconfig it writes when it listens."""
    written = {}
    for name in emulated_clouds(source):
        cloud, folder = source.clouds[name], state.path / "sites" / name
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        table = {
            "name": name,
            "folder": str(folder / "cluster"),
            "host": HOST,
            "port": ports.site[name],
            "pod_network": cloud.emulated.pod_network if cloud.emulated is not None else "",
            "namespaces": [cloud.site.namespace],
            "images": {each.image: {"pull_seconds": 0.2} for each in cloud.images.values()},
            "path": [str(Path(sys.executable).parent)],
        }
        file = folder / "cluster.toml"
        write_toml(file, table)
        written[name] = (file, _kubeconfig(state, name))
    return written


def write_effective_clouds(state: StateFolder, source: Configuration, ports: Ports) -> None:
    """Writes the clouds' files as the services read them, with the operator's files by their full names."""
    origin = source.file.parent / source.shared.installation.systems_folder
    for name, cloud in source.clouds.items():
        table = read_toml(origin / f"{name}.toml")
        _keep_files(table, cloud)
        if cloud.emulated is not None:
            table["site"]["kubeconfig"] = str(_kubeconfig(state, name))
            table.setdefault("pod", {})["hub_api_url"] = f"http://{HOST}:{ports.hub_api}/hub/api"
        write_toml(state.path / "systems" / f"{name}.toml", table)


def _keep_files(table: dict[str, Any], cloud: CloudSystem) -> None:
    table["site"]["kubeconfig"] = cloud.site.kubeconfig
    if isinstance(cloud.reach, SshReach):
        table["reach"].update(key_file=cloud.reach.key_file, known_hosts_file=cloud.reach.known_hosts_file)


def _kubeconfig(state: StateFolder, name: SystemName) -> Path:
    return state.path / "sites" / name / "cluster" / "kubeconfig"
