"""`farlab.toml`: the settings every service shares, and the sections that belong to one. Validated whole at start."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta

from schemas.base import HubName, Slug, SystemName
from schemas.subjects import Subjects
from services._runtime.clouds import CatalogueEntry, CloudSystem, load_clouds
from services._runtime.configuration import ConfigurationError, convert, read_toml
from services._runtime.openid import SignInSettings
from services._runtime.systems import System, load_systems
from services._runtime.tracing import Traces

Section = TypeVar("Section")
SECTIONS = ("hub_bridge", "hpc_launcher", "cloud_launcher", "tunneler", "accounts", "operator_cli")
"""Tables that belong to one service each; that service says what may stand there."""


class Installation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What makes this installation this one. Folders count from the file's folder.

    Sessions of others may be replayed into a `sandbox`: its operator may start jobs in the name of the hub `replay`.
    """

    prefix: Slug = "farlab"
    hub: Annotated[HubName, Meta(pattern=r"^[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$")] = HubName("main")
    systems_folder: str = "systems"
    keys_folder: str = "keys"
    sandbox: bool = False


class Nats(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the broker is. With `nkeys_folder`, each service signs in with `<service>.nk` of that folder."""

    servers: list[Annotated[str, Meta(pattern=r"^(nats|tls)://[^@]+$")]] = msgspec.field(
        default_factory=lambda: ["nats://127.0.0.1:4222"]
    )
    nkeys_folder: str = ""
    ca_file: str = ""
    connect_seconds: Annotated[float, Meta(gt=0)] = 10.0


class Logs(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much is logged, and for whom."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["json", "terminal"] = "json"


class Retention(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much of the log is kept. Zero means without limit."""

    max_age_seconds: float = 0
    max_bytes: int = 0
    replicas: int = 1
    vault_seconds: float = 60 * 86400


class Shared(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The tables of `farlab.toml` that every service reads. Without `sign_in`, users share a password (to try only)."""

    installation: Installation = Installation()
    nats: Nats = Nats()
    logs: Logs = Logs()
    retention: Retention = Retention()
    sign_in: SignInSettings | None = None
    traces: Traces = Traces()


class Configuration(msgspec.Struct, frozen=True, kw_only=True):
    """A whole configuration: the shared settings, the HPC systems, the clouds, and each service's own table, unread."""

    file: Path
    shared: Shared
    systems: dict[SystemName, System]
    sections: dict[str, Any]
    clouds: dict[SystemName, CloudSystem] = {}

    @property
    def subjects(self) -> Subjects:
        """The subjects of this installation."""
        return Subjects(self.shared.installation.prefix)

    @property
    def catalogue(self) -> dict[SystemName, CatalogueEntry]:
        """All systems, of either kind, by name."""
        return {**self.systems, **self.clouds}

    @property
    def keys_folder(self) -> Path:
        """Where sealing keys and keys for event ids are."""
        return self.file.parent / self.shared.installation.keys_folder

    def section(self, name: str, settings: type[Section]) -> Section:
        """One service's own table as its settings. Raises ConfigurationError."""
        return convert(self.sections.get(name, {}), settings, file=self.file, section=name)


def load(file: Path) -> Configuration:
    """The configuration in a file and its systems folder. Raises ConfigurationError for the first thing wrong."""
    file = file.resolve()
    tables = read_toml(file)
    sections = {name: tables.pop(name) for name in SECTIONS if name in tables}
    for name, table in sections.items():
        if not isinstance(table, dict):
            raise ConfigurationError(f"{file}: {name} = {table!r}: must be a table; write [{name}]")
    shared = convert(tables, Shared, file=file)
    folder = file.parent / shared.installation.systems_folder
    systems, clouds = load_systems(folder), load_clouds(folder)
    return Configuration(file=file, shared=shared, systems=systems, sections=sections, clouds=clouds)
