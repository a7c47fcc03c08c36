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
from services.operator_cli.sandbox.mapping import REPLAY_HUB

SERVICES = ("hub-bridge", "accounts", "hpc-launcher", "cloud-launcher", "tunneler", "operator-cli")

LAUNCHER_EVENTS = (
    "job-created",
    "job-submitted",
    "job-status-changed",
    "progress-reported",
    "server-listening",
    "stop-requested",
    "session-ended",
)
SESSION_EVENTS = {
    "hub-bridge": ("start-requested", "server-ready", "stop-requested"),
    "accounts": ("start-waiting", "start-admitted", "start-rejected", "stop-requested", "session-ended"),
    "hpc-launcher": LAUNCHER_EVENTS,
    "cloud-launcher": LAUNCHER_EVENTS,
    "tunneler": ("tunnel-ready", "tunnel-lost", "stop-requested"),
    "operator-cli": ("stop-requested",),
}
WRITES = {
    "hub-bridge": ("vault", "activity"),
    "accounts": ("vault", "access", "leases", "tokens"),
    "hpc-launcher": ("vault", "leases"),
    "cloud-launcher": ("vault", "leases"),
    "tunneler": ("vault", "leases"),
    "operator-cli": ("vault",),
}
"""Buckets a service may write to. Who may use what is written by accounts alone."""
READS = {
    **WRITES,
    "hub-bridge": ("vault", "access", "activity"),
    "cloud-launcher": ("vault", "leases", "activity"),
    "operator-cli": ("vault", "access", "leases"),
}
SIGN_IN_EVENTS = ("signed-in", "signed-out")
"""What the hub bridge may say of sign-ins."""
QUESTIONS = {
    "hub-bridge": ("renew-sign-in",),
    "hpc-launcher": ("access-token",),
}
"""What a service may ask accounts; each asks under its own name, and only accounts hear it."""
ANSWER_TIME = "60s"
"""How long accounts may take to answer what it was asked."""
STREAMS = {
    "hub-bridge": ("SESSIONS", "SYSTEMS", "ACCESS", "QUOTAS"),
    "accounts": ("SESSIONS", "QUOTAS", "ACCESS", "SYSTEMS", "ACTS"),
    "operator-cli": ("SESSIONS", "QUOTAS", "ACCESS", "SYSTEMS", "ACTS", "DEAD_LETTERS"),
}


class Permissions(msgspec.Struct, frozen=True):
    """The subjects one service may publish to and subscribe to; `never` are exceptions from `publish`.

    `answers` is whether it may reply to what it is asked.
    """

    publish: list[str]
    subscribe: list[str]
    never: list[str]
    answers: bool = False


class Tls(msgspec.Struct, frozen=True):
    """A server's certificate with its key, for clients and for the other servers, and the authority of all of them."""

    certificate_file: Path
    key_file: Path
    ca_file: Path


class Cluster(msgspec.Struct, frozen=True):
    """The servers that are one broker: each `HOST:PORT` of `routes` is where one of them hears the others."""

    name: str
    routes: list[str]
    port: int = 6222


def permissions(service: str, subjects: Subjects, hub: str, *, sandbox: bool = False) -> Permissions:
    """What one service may do; everything else is denied. In a sandbox, the operator speaks for the hub `replay`."""
    hub_token = hub if service == "hub-bridge" else "*"
    publish = [f"{subjects.root}.session.{hub_token}.*.*.{event}" for event in SESSION_EVENTS[service]]
    publish.append(f"{subjects.root}.dead.{service}.>")
    for stream in STREAMS.get(service, ("SESSIONS", "SYSTEMS", "ACTS")):
        publish += _reads(stream_name(subjects, stream), service)
    for bucket in READS[service]:
        publish += _reads(f"KV_{bucket_name(subjects, bucket)}", service)
    publish += [f"$KV.{bucket_name(subjects, bucket)}.>" for bucket in WRITES[service]]
    publish += [f"{subjects.question('accounts', each)}.{service}" for each in QUESTIONS.get(service, ())]
    if service == "hub-bridge":
        publish += [f"{subjects.root}.access.*.*.{event}" for event in SIGN_IN_EVENTS]
    if service == "accounts":
        publish += [subjects.family("quota"), subjects.access_changed("*")]
    if service == "operator-cli":
        publish += [subjects.family("system"), subjects.family("act"), "$JS.API.INFO"]
        publish += [f"$JS.API.STREAM.{act}.>" for act in ("INFO", "CREATE", "UPDATE")]
        publish += [subjects.sessions(hub=REPLAY_HUB)] if sandbox else []
    subscribe = [f"_INBOX.{service}.>", f"{subjects.prefix}.deliver.{service}.>"]
    if service == "accounts":
        subscribe += [subjects.question("accounts", ">")]
    return Permissions(["$JS.FC.>", *publish], subscribe, _of_others(service), answers=service == "accounts")


def _reads(stream: str, service: str) -> list[str]:
    """What it takes to read a stream: consumers, direct gets, and acknowledgements for the service's own consumer.

    The server knows two forms of acknowledgement subjects, with and without domain and account.
    """
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
        f"$JS.ACK.{stream}.{service}.>",
        f"$JS.ACK.*.*.{stream}.{service}.>",
    ]


def _of_others(service: str) -> list[str]:
    """The durable consumers of other services: changing or deleting one would lose that service's place in the log."""
    return [
        f"$JS.API.CONSUMER.{act}.*.{other}{rest}"
        for other in SERVICES
        if other != service
        for act, rest in (("CREATE", ""), ("CREATE", ".>"), ("DELETE", ""))
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
    *,
    subjects: Subjects,
    hub: str,
    public_keys: dict[str, str],
    host: str,
    port: int,
    folder: Path,
    sandbox: bool = False,
    name: str = "",
    monitor: str = "",
    tls: Tls | None = None,
    cluster: Cluster | None = None,
) -> str:
    """The text of `nats.conf` for one server with files in `folder`, every write on disk before it is answered.

    `name` tells it from others of its cluster; at `monitor`, `HOST:PORT`, it answers `/healthz`.
    """
    users = [
        {"nkey": key, "permissions": _as_table(permissions(service, subjects, hub, sandbox=sandbox))}
        for service, key in public_keys.items()
    ]
    lines = [
        "# Written by farlab; changes are lost.",
        f"server_name: {json.dumps(name or subjects.prefix + '-nats')}",
        f'listen: "{host}:{port}"',
        f"ports_file_dir: {json.dumps(str(folder))}",
        "max_payload: 1MB",
        "ping_interval: 10s",
        "lame_duck_duration: 30s",
        *([f"http: {json.dumps(monitor)}"] if monitor else []),
        *(_tls(tls) if tls else []),
        *(_cluster(cluster, host, tls) if cluster else []),
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


def _tls(tls: Tls, *rest: str) -> list[str]:
    return [
        "tls {",
        f"  cert_file: {json.dumps(str(tls.certificate_file))}",
        f"  key_file: {json.dumps(str(tls.key_file))}",
        *rest,
        "}",
    ]


def _cluster(cluster: Cluster, host: str, tls: Tls | None) -> list[str]:
    """Clients are not told the addresses of the others: certificates name hosts, and the configuration has them all."""
    verified = _tls(tls, f"  ca_file: {json.dumps(str(tls.ca_file))}", "  verify: true") if tls else []
    return [
        "cluster {",
        f"  name: {json.dumps(cluster.name)}",
        f'  listen: "{host}:{cluster.port}"',
        f"  routes: {json.dumps([f'nats://{each}' for each in cluster.routes])}",
        "  no_advertise: true",
        *(f"  {line}" for line in verified),
        "}",
    ]


def _as_table(allowed: Permissions) -> dict[str, object]:
    table: dict[str, object] = {
        "publish": {"allow": allowed.publish, "deny": allowed.never},
        "subscribe": {"allow": allowed.subscribe},
    }
    return table | ({"allow_responses": {"max": 1, "expires": ANSWER_TIME}} if allowed.answers else {})
