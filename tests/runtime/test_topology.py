"""Streams and buckets: declared as data, compared, applied in one step that can be repeated."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import nats
import nats.js.errors
import pytest
from nats.js import JetStreamContext
from nats.js.api import RetentionPolicy, StorageType, StreamConfig

from schemas.subjects import Subjects
from services._runtime import topology
from services._runtime.jetstream import JetStreamBucket, JetStreamLog
from services._runtime.settings import Retention
from services._runtime.topology import Difference, differences, streams
from tests.support.broker import nats_server
from tests.support.samples import Story, stamp

SUBJECTS = Subjects()


@asynccontextmanager
async def broker(folder: Path) -> AsyncIterator[JetStreamContext]:
    async with nats_server(folder) as server:
        client = await nats.connect(server.url)
        yield client.jetstream()
        await client.close()


def sessions_stream(**changes: Any) -> StreamConfig:
    found = streams(SUBJECTS, Retention())[0]
    return found.evolve(**changes)


@pytest.mark.parametrize(
    ("changes", "setting", "found"),
    [
        ({"max_age": 60.0}, "max_age", 60.0),
        ({"max_bytes": 1000}, "max_bytes", 1000),
        ({"num_replicas": 3}, "num_replicas", 3),
        ({"subjects": ["farlab.v0.session.>"]}, "subjects", ["farlab.v0.session.>"]),
        ({"retention": RetentionPolicy.WORK_QUEUE}, "retention", "workqueue"),
        ({"storage": StorageType.MEMORY}, "storage", "memory"),
        ({"allow_direct": False}, "allow_direct", 0),
        ({"deny_delete": False}, "deny_delete", 0),
        ({"deny_purge": None}, "deny_purge", 0),
    ],
)
def test_what_is_not_as_it_should_be_is_named(changes: dict[str, Any], setting: str, found: object) -> None:
    [difference] = differences(sessions_stream(), sessions_stream(**changes))
    assert (difference.stream, difference.setting, difference.found) == ("SESSIONS", setting, found)
    assert difference.wanted != difference.found


def test_what_the_server_fills_in_by_itself_is_no_difference() -> None:
    assert differences(sessions_stream(), sessions_stream(description="x", max_msgs=-1, first_seq=1)) == []


def test_every_stream_keeps_by_limits_alone_so_that_replay_stays_possible() -> None:
    for stream in streams(SUBJECTS, Retention()):
        assert (stream.retention, stream.storage) == (RetentionPolicy.LIMITS, StorageType.FILE)
        assert stream.deny_delete
        assert stream.deny_purge


def test_installations_that_share_a_server_share_no_stream_and_no_bucket() -> None:
    other = Subjects("second")
    ours, theirs = ({stream.name for stream in streams(each, Retention())} for each in (SUBJECTS, other))
    assert not ours & theirs
    assert topology.bucket_name(other, "vault") == "second-vault"
    assert topology.bucket_name(SUBJECTS, "vault") == "vault"


async def test_applied_twice_it_changes_nothing_the_second_time(tmp_path: Path) -> None:
    async with broker(tmp_path) as js:
        retention = Retention(max_age_seconds=86_400, max_bytes=10_000_000, vault_seconds=3600)
        assert await topology.apply(js, SUBJECTS, retention) == []
        assert await topology.apply(js, SUBJECTS, retention) == []
        names = {info.config.name for info in await js.streams_info()}
        streams_made = {"SESSIONS", "QUOTAS", "ACCESS", "SYSTEMS", "ACTS", "DEAD_LETTERS"}
        assert names == streams_made | {"KV_leases", "KV_vault", "KV_access", "KV_tokens", "KV_activity"}
        await topology.apply(js, Subjects("second"), retention)
        assert len(await js.streams_info()) == 2 * len(names)


async def test_a_setting_that_was_changed_by_hand_or_in_the_file_is_closed_and_told(tmp_path: Path) -> None:
    async with broker(tmp_path) as js:
        await topology.apply(js, SUBJECTS, Retention())
        found = (await js.stream_info("SESSIONS")).config
        await js.update_stream(found.evolve(max_age=60.0, duplicate_window=60.0))
        closed = await topology.apply(js, SUBJECTS, Retention())
        assert [(each.setting, each.found) for each in closed] == [("max_age", 60.0), ("duplicate_window", 60.0)]
        closed = await topology.apply(js, SUBJECTS, Retention(vault_seconds=7200))
        assert closed == [
            Difference(f"KV_{bucket}", "max_age", 7200.0, 60 * 86_400.0) for bucket in ("vault", "tokens", "activity")
        ]
        assert await topology.apply(js, SUBJECTS, Retention(vault_seconds=7200)) == []


async def test_a_shorter_life_of_secrets_spares_those_that_are_younger(tmp_path: Path) -> None:
    async with broker(tmp_path) as js:
        await topology.apply(js, SUBJECTS, Retention())
        await JetStreamBucket(js, SUBJECTS, "vault").put("a.tunneler", b"sealed")
        await topology.apply(js, SUBJECTS, Retention(vault_seconds=60))
        entry = await JetStreamBucket(js, SUBJECTS, "vault").get("a.tunneler")
        assert entry is not None
        assert entry[0] == b"sealed"


async def test_nobody_purges_or_deletes_what_is_in_the_log(tmp_path: Path) -> None:
    async with broker(tmp_path) as js:
        await topology.apply(js, SUBJECTS, Retention())
        log, story = JetStreamLog(js._nc, SUBJECTS), Story()
        event = stamp()(story.requested(), after=0, cause=None)
        subject, scope = SUBJECTS.session_event(event), SUBJECTS.session(story.session)
        await log.append("SESSIONS", subject, event, scope=scope, after=0)
        with pytest.raises(nats.js.errors.APIError):
            await js.purge_stream("SESSIONS")
        with pytest.raises(nats.js.errors.APIError):
            await js.delete_msg("SESSIONS", 1)
        assert len(await log.history("SESSIONS", scope)) == 1


async def test_what_the_server_refuses_is_raised_and_not_passed_over(tmp_path: Path) -> None:
    async with broker(tmp_path) as js:
        await js.add_stream(sessions_stream(storage=StorageType.MEMORY))
        with pytest.raises(nats.js.errors.APIError):
            await topology.apply(js, SUBJECTS, Retention())
