from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from schemas.subjects import Subjects
from services._runtime import topology
from services._runtime.jetstream import JetStreamBucket, JetStreamLog
from services._runtime.log import Bucket, Log
from services._runtime.memory import MemoryBucket, MemoryLog
from services._runtime.nats_client import QuickClient
from services._runtime.settings import Retention
from tests.support.broker import nats_server

BACKENDS = ("memory", "jetstream")


@pytest.fixture(params=BACKENDS)
async def log_and_bucket(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[tuple[Log, Bucket]]:
    if request.param == "memory":
        yield MemoryLog(), MemoryBucket()
        return
    async with nats_server(tmp_path) as server:
        client = QuickClient()
        await client.connect(server.url)
        subjects = Subjects()
        await topology.apply(client.jetstream(), subjects, Retention())
        yield JetStreamLog(client, subjects), JetStreamBucket(client.jetstream(), subjects, "vault")
        await client.close()


@pytest.fixture
def log(log_and_bucket: tuple[Log, Bucket]) -> Log:
    return log_and_bucket[0]


@pytest.fixture
def bucket(log_and_bucket: tuple[Log, Bucket]) -> Bucket:
    return log_and_bucket[1]
