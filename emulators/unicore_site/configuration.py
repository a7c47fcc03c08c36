"""What an emulated UNICORE site is told at start. Reads one TOML file."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta


class Queue(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A partition: limits of one job, in nodes, GPUs a node and seconds."""

    max_nodes: int = 4
    gpus_per_node: int = 0
    max_runtime_seconds: int = 86_400


class SiteUser(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Whom the site knows by a distinguished name, as which accounts and in which groups. `password` for Basic."""

    dn: str
    uids: Annotated[list[str], Meta(min_length=1)]
    groups: list[str] = []
    password: str = ""


class SiteConfiguration(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An emulated site. `trusted` maps issuers of delegation tokens to files with their public keys (PEM)."""

    name: Annotated[str, Meta(pattern=r"^[A-Z0-9-]+$")] = "DEMO"
    folder: str
    host: str = "127.0.0.1"
    port: int = 0
    tls: bool = True
    queues: dict[str, Queue] = msgspec.field(default_factory=lambda: {"batch": Queue()})
    compute_nodes: list[str] = msgspec.field(default_factory=lambda: ["127.0.0.1"])
    jobs_per_node: int = 8
    queue_seconds: float = 0.5
    path: list[str] = []
    users: list[SiteUser] = []
    trusted: dict[str, str] = msgspec.field(default_factory=dict)
    page_size: int = 200


def load(file: Path) -> SiteConfiguration:
    """The configuration in a file. Raises ValueError with one line that names what is wrong."""
    try:
        return msgspec.convert(tomllib.loads(file.read_text()), SiteConfiguration)
    except (OSError, tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise ValueError(f"{file}: {error}") from None
