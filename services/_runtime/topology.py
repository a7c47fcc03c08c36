"""Streams and buckets as data: what should be, how it differs from what is, and one explicit step to apply it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any

import msgspec
import nats.errors
import nats.js.errors
from nats.js import JetStreamContext
from nats.js.api import DiscardPolicy, KeyValueConfig, RetentionPolicy, StorageType, StreamConfig

from schemas.subjects import Subjects
from services._runtime.errors import TransientError
from services._runtime.log import Stream
from services._runtime.settings import Retention

BUCKETS = ("leases", "vault", "access", "tokens", "activity")
LEASE_SECONDS = 6.0
"""Time to live of a lease: what a dead owner costs before another takes over."""
DEDUPLICATION_SECONDS = 120.0
MISSING = "stream"
"""The setting of a difference where there is no stream at all."""


RefusedError = nats.js.errors.APIError
"""The server will not have a stream so."""


class Difference(msgspec.Struct, frozen=True):
    """One setting of a stream that is not as it should be."""

    stream: str
    setting: str
    wanted: object
    found: object


def stream_name(subjects: Subjects, stream: Stream | str) -> str:
    """The stream's name in NATS: installations that share a server have streams of their own."""
    return stream if subjects.prefix == "farlab" else f"{subjects.prefix.upper()}_{stream}"


def streams(subjects: Subjects, retention: Retention) -> list[StreamConfig]:
    """What should be. Limits retention only: any other would lose replay."""
    families: Mapping[Stream, str] = {
        "SESSIONS": "session",
        "QUOTAS": "quota",
        "ACCESS": "access",
        "SYSTEMS": "system",
        "ACTS": "act",
        "DEAD_LETTERS": "dead",
    }
    return [
        StreamConfig(
            name=stream_name(subjects, stream),
            subjects=[subjects.family(family)],
            retention=RetentionPolicy.LIMITS,
            discard=DiscardPolicy.OLD,
            storage=StorageType.FILE,
            num_replicas=retention.replicas,
            max_age=retention.max_age_seconds,
            max_bytes=retention.max_bytes or -1,
            duplicate_window=DEDUPLICATION_SECONDS,
            allow_direct=True,
            deny_delete=True,
            deny_purge=True,
        )
        for stream, family in families.items()
    ]


def bucket_name(subjects: Subjects, bucket: str) -> str:
    """The bucket's name in NATS."""
    return bucket if subjects.prefix == "farlab" else f"{subjects.prefix}-{bucket}"


def buckets(subjects: Subjects, retention: Retention) -> list[KeyValueConfig]:
    """The key-value buckets that should be."""
    ttl = {"leases": LEASE_SECONDS, "access": 0.0}
    return [
        KeyValueConfig(
            bucket=bucket_name(subjects, bucket),
            ttl=ttl.get(bucket, retention.vault_seconds),
            history=1,
            replicas=retention.replicas,
        )
        for bucket in BUCKETS
    ]


_COMPARED = (
    "subjects",
    "retention",
    "storage",
    "num_replicas",
    "max_age",
    "max_bytes",
    "duplicate_window",
    "allow_direct",
    "deny_delete",
    "deny_purge",
)


def differences(wanted: StreamConfig, found: StreamConfig) -> list[Difference]:
    """Settings of a stream that are not as wanted. Pure."""
    return [
        Difference(wanted.name or "", setting, _plain(getattr(wanted, setting)), _plain(getattr(found, setting)))
        for setting in _COMPARED
        if _plain(getattr(wanted, setting)) != _plain(getattr(found, setting))
    ]


def _plain(value: Any) -> object:
    return getattr(value, "value", value) or 0


async def compare(js: JetStreamContext, subjects: Subjects, retention: Retention) -> list[Difference]:
    """What is not as it should be, a stream or bucket that is missing included. Changes nothing.

    Raises TransientError where the server does not answer.
    """
    try:
        return [difference async for _, found in _streams_of(js, subjects, retention) for difference in found]
    except (nats.errors.Error, TimeoutError, ConnectionError) as error:
        raise TransientError(f"the server did not tell its streams: {error!r}; may this key ask?") from error


async def apply(js: JetStreamContext, subjects: Subjects, retention: Retention) -> list[Difference]:
    """Creates what is missing and updates what differs. Returns the differences it found and closed.

    Raises nats.js.errors.APIError when the server refuses, as for a change of storage.
    """
    closed: list[Difference] = []
    async for wanted, different in _streams_of(js, subjects, retention):
        if not different:
            continue
        if different[0].setting != MISSING:
            await js.update_stream(wanted)
            closed.extend(different)
        elif bucket := _bucket_of(wanted, subjects, retention):
            await js.create_key_value(bucket)
        else:
            await js.add_stream(wanted)
    return closed


async def _streams_of(
    js: JetStreamContext, subjects: Subjects, retention: Retention
) -> AsyncIterator[tuple[StreamConfig, list[Difference]]]:
    """Every stream as it should be, those under buckets last, with how it differs from what is."""
    for wanted in streams(subjects, retention):
        found = await _found(js, wanted.name or "")
        yield wanted, [_missing(wanted)] if found is None else differences(wanted, found)
    for bucket in buckets(subjects, retention):
        found = await _found(js, f"KV_{bucket.bucket}")
        wanted = StreamConfig(name=f"KV_{bucket.bucket}") if found is None else _bucket_stream(bucket, found)
        yield wanted, [_missing(wanted)] if found is None else differences(wanted, found)


async def _found(js: JetStreamContext, name: str) -> StreamConfig | None:
    try:
        return (await js.stream_info(name)).config
    except nats.js.errors.NotFoundError:
        return None


def _missing(wanted: StreamConfig) -> Difference:
    return Difference(wanted.name or "", MISSING, "there", "missing")


def _bucket_of(wanted: StreamConfig, subjects: Subjects, retention: Retention) -> KeyValueConfig | None:
    named = (wanted.name or "").removeprefix("KV_")
    return next((each for each in buckets(subjects, retention) if each.bucket == named), None)


def _bucket_stream(bucket: KeyValueConfig, found: StreamConfig) -> StreamConfig:
    """The stream under a bucket as it should be: what is found, with our time to live and replicas."""
    life = bucket.ttl or 0.0
    window = min(life, DEDUPLICATION_SECONDS) if life else DEDUPLICATION_SECONDS
    return found.evolve(max_age=life, num_replicas=bucket.replicas, duplicate_window=window)
