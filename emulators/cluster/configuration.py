"""What an emulated cluster is told at start. Reads one TOML file."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

Seconds = Annotated[float, Meta(ge=0)]
AtLeastOne = Annotated[int, Meta(ge=1)]
ALL_VERBS = ["create", "get", "list", "watch", "update", "patch", "delete", "deletecollection"]


class Image(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What stands behind an image's name: the command of its entrypoint, and how it misbehaves.

    A container's `command` takes the entrypoint's place and its `args` follow. `fault`: `oom-killed` kills its
    process after `fault_seconds` as the kernel does; `evicted` has the node evict its pod then; `node-lost` loses the
    node then; `unpullable` cannot be pulled.
    """

    entrypoint: list[str] = []
    environment: dict[str, str] = {}
    pull_seconds: Seconds = 0.0
    fault: Literal["", "unpullable", "oom-killed", "evicted", "node-lost"] = ""
    fault_seconds: Seconds = 0.0


class Node(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A node: its name, labels, and what its pods may request together."""

    name: str
    labels: dict[str, str] = {}
    capacity: dict[str, str] = msgspec.field(default_factory=lambda: {"cpu": "64", "memory": "256Gi", "pods": "1000"})


class Rule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A right: verbs on resources in namespaces, `*` for all. Sub-resources are spelled `pods/log`."""

    namespaces: list[str] = msgspec.field(default_factory=lambda: ["*"])
    resources: list[str] = msgspec.field(default_factory=lambda: ["*"])
    verbs: list[str] = msgspec.field(default_factory=lambda: list(ALL_VERBS))


class User(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Whom a bearer token stands for, and what they may do."""

    name: str
    token: str
    rules: list[Rule] = msgspec.field(default_factory=lambda: [Rule()])


class ClusterConfiguration(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An emulated cluster.

    `pod_network`: the first octets of the loopback addresses that pods get, such as `127.88`; a random one when empty.
    `history`: how many changes a watch may lag behind before it is told 410. `crash_backoff_seconds`: the first pause
    before a container is restarted; it doubles. `node_lost_seconds`: how long after the loss of a node its pods are
    marked for deletion. `path`: folders in which commands of images are looked for, before those of this process.
    """

    name: str = "emulated"
    folder: str
    host: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65_535)] = 0
    pod_network: Annotated[str, Meta(pattern=r"^(127\.\d{1,3})?$")] = ""
    namespaces: list[str] = msgspec.field(default_factory=lambda: ["default"])
    nodes: Annotated[list[Node], Meta(min_length=1)] = msgspec.field(
        default_factory=lambda: [Node(name="node-1"), Node(name="node-2")]
    )
    images: dict[str, Image] = {}
    users: list[User] = []
    path: list[str] = []
    history: AtLeastOne = 20_000
    bookmark_seconds: Annotated[float, Meta(gt=0)] = 60.0
    crash_backoff_seconds: Annotated[float, Meta(gt=0)] = 10.0
    node_lost_seconds: Seconds = 1.0


def load(file: Path) -> ClusterConfiguration:
    """The configuration in a file. Raises ValueError with one line that names what is wrong."""
    try:
        return msgspec.convert(tomllib.loads(file.read_text()), ClusterConfiguration)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise ValueError(f"{file}: {error}") from None
