"""What an emulated UNICORE site is told at start. Reads one TOML file."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

AtLeastOne = Annotated[int, Meta(ge=1)]
Seconds = Annotated[float, Meta(ge=0)]


class Queue(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A partition: limits of one job, in nodes, GPUs a node and seconds.

    `nodes_at_once` is how many nodes all its jobs together may hold; further jobs wait.
    """

    max_nodes: AtLeastOne = 4
    gpus_per_node: Annotated[int, Meta(ge=0)] = 0
    max_runtime_seconds: AtLeastOne = 86_400
    nodes_at_once: AtLeastOne | None = None


class SiteUser(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Whom the site knows by a distinguished name, as which accounts and in which groups. `password` for Basic."""

    dn: str
    uids: Annotated[list[Annotated[str, Meta(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]*$")]], Meta(min_length=1)]
    groups: list[str] = []
    password: str = ""


class SiteConfiguration(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An emulated site. `trusted` maps issuers of delegation tokens to files with their public keys (PEM).

    `userinfo_url` is where users' own bearer tokens are checked; without it there are none.
    `preparing_seconds`: how long after a job was made its directory is there.
    `kill_seconds`: how long an ending job may take to obey SIGTERM.
    """

    name: Annotated[str, Meta(pattern=r"^[A-Z0-9-]+$")] = "DEMO"
    folder: str
    host: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65_535)] = 0
    tls: bool = True
    queues: Annotated[dict[str, Queue], Meta(min_length=1)] = msgspec.field(default_factory=lambda: {"batch": Queue()})
    compute_nodes: Annotated[list[str], Meta(min_length=1)] = msgspec.field(default_factory=lambda: ["127.0.0.1"])
    jobs_per_node: AtLeastOne = 8
    queue_seconds: Seconds = 0.5
    preparing_seconds: Seconds = 0.1
    staging_seconds: Seconds = 0.0
    kill_seconds: Seconds = 3.0
    path: list[str] = []
    users: list[SiteUser] = []
    trusted: dict[str, str] = msgspec.field(default_factory=dict)
    userinfo_url: str = ""
    page_size: AtLeastOne = 200
    session_seconds: Seconds = 28_800.0


def load(file: Path) -> SiteConfiguration:
    """The configuration in a file. Raises ValueError with one line that names what is wrong."""
    try:
        configuration = msgspec.convert(tomllib.loads(file.read_text()), SiteConfiguration)
        for key in configuration.trusted.values():
            Path(key).read_bytes()
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise ValueError(f"{file}: {error}") from None
    return configuration
