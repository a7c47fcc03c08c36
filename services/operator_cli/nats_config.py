"""The broker's configuration: who may say and hear what, by subject, denied by default. Writes text, starts nothing.

A message is never trusted for what its sender may not say: only the hub bridge may append `start-requested` for its
hub, only launchers `job-*`, and nobody may delete or purge the log.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import msgspec
import nkeys

from schemas.subjects import Subjects
from services._runtime.topology import bucket_name, stream_name
from services._runtime.vault import write_secret_file

SERVICES = ("hub-bridge", "accounts", "hpc-launcher", "tunneler", "operator-cli")

SESSION_EVENTS = {
    "hub-bridge": ("start-requested", "server-ready", "stop-requested"),
    "accounts": ("start-waiting", "start-admitted", "start-rejected", "session-ended"),
    "hpc-launcher": (
        "job-created",
        "job-submitted",
        "job-status-changed",
        "progress-reported",
        "server-listening",
        "stop-requested",
        "session-ended",
    ),
    "tunneler": ("tunnel-ready", "tunnel-lost", "stop-requested"),
    "operator-cli": ("stop-requested",),
}
BUCKETS = {
    "hub-bridge": ("vault", "access"),
    "accounts": ("vault", "access", "leases"),
    "hpc-launcher": ("vault", "leases"),
    "tunneler": ("vault", "leases"),
    "operator-cli": ("vault", "access", "leases"),
}
STREAMS = {
    "accounts": ("SESSIONS", "QUOTAS", "ACCESS", "SYSTEMS"),
    "operator-cli": ("SESSIONS", "QUOTAS", "ACCESS", "SYSTEMS", "DEAD_LETTERS"),
}


class Permissions(msgspec.Struct, frozen=True):
    """The subjects one service may publish to and subscribe to."""

    publish: list[str]
    subscribe: list[str]


def permissions(service: str, subjects: Subjects, hub: str) -> Permissions:
    """What one service may do; everything else is denied."""
    hub_token = hub if service == "hub-bridge" else "*"
    publish = [f"{subjects.root}.session.{hub_token}.*.*.{event}" for event in SESSION_EVENTS[service]]
    publish.append(f"{subjects.root}.dead.{service}.>")
    for stream in STREAMS.get(service, ("SESSIONS", "SYSTEMS")):
        publish += _reads(stream_name(subjects, stream), service)
    for bucket in BUCKETS[service]:
        name = bucket_name(subjects, bucket)
        publish += [f"$KV.{name}.>", *_reads(f"KV_{name}", service)]
    if service == "accounts":
        publish += [subjects.family("quota"), subjects.family("access")]
    if service == "operator-cli":
        publish += [subjects.family("system"), "$JS.API.INFO", "$JS.API.STREAM.>"]
    subscribe = [f"_INBOX.{service}.>", f"{subjects.prefix}.deliver.{service}.>"]
    return Permissions(["$JS.FC.>", *publish], subscribe)


def _reads(stream: str, service: str) -> list[str]:
    """What it takes to read a stream: consumers of one's own, direct gets, acknowledgements in both forms."""
    return [
        f"$JS.API.STREAM.INFO.{stream}",
        f"$JS.API.CONSUMER.CREATE.{stream}.>",
        f"$JS.API.CONSUMER.CREATE.{stream}",
        f"$JS.API.CONSUMER.DURABLE.CREATE.{stream}.{service}",
        f"$JS.API.CONSUMER.INFO.{stream}.>",
        f"$JS.API.CONSUMER.DELETE.{stream}.>",
        f"$JS.API.DIRECT.GET.{stream}",
        f"$JS.API.DIRECT.GET.{stream}.>",
        f"$JS.API.STREAM.MSG.GET.{stream}",
        f"$JS.ACK.{stream}.>",
        f"$JS.ACK.*.*.{stream}.>",
    ]


def make_nkeys(folder: Path, services: Sequence[str] = SERVICES) -> dict[str, str]:
    """The public nkey of every service; seeds that are missing are made, 0600, as `<service>.nk`."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    public = {}
    for service in services:
        file = folder / f"{service}.nk"
        if not file.exists():
            write_secret_file(file, bytes(nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_USER)))
        public[service] = nkeys.from_seed(bytearray(file.read_bytes().strip())).public_key.decode()
    return public


def server_configuration(
    *, subjects: Subjects, hub: str, public_keys: dict[str, str], host: str, port: int, folder: Path
) -> str:
    """The text of `nats.conf` for one server with files in `folder`, every write on disk before it is answered."""
    users = [
        {"nkey": key, "permissions": _as_table(permissions(service, subjects, hub))}
        for service, key in public_keys.items()
    ]
    lines = [
        "# Written by farlab; changes are lost.",
        f"server_name: {json.dumps(subjects.prefix + '-nats')}",
        f'listen: "{host}:{port}"',
        f"ports_file_dir: {json.dumps(str(folder))}",
        "max_payload: 1MB",
        "ping_interval: 10s",
        "lame_duck_duration: 30s",
        "jetstream {",
        f"  store_dir: {json.dumps(str(folder / 'jetstream'))}",
        "  sync_interval: always",
        "  max_memory_store: 256MB",
        "  max_file_store: 20GB",
        "}",
        "authorization {",
        f"  users: {json.dumps(users, indent=2)}",
        "}",
        "",
    ]
    return "\n".join(lines)


def _as_table(allowed: Permissions) -> dict[str, dict[str, list[str]]]:
    return {"publish": {"allow": allowed.publish}, "subscribe": {"allow": allowed.subscribe}}
