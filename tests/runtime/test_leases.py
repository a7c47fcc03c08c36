"""One holder at a time, whatever stops answering: on the bucket in memory and on the real one with a short life."""

from __future__ import annotations

import asyncio
from pathlib import Path

import nats
import pytest

from schemas.subjects import Subjects
from services._runtime import topology
from services._runtime.errors import TransientError
from services._runtime.jetstream import JetStreamBucket
from services._runtime.leases import Lease, holders
from services._runtime.log import KeyTakenError
from services._runtime.memory import MemoryBucket
from services._runtime.settings import Retention
from tests.support.broker import nats_server

SUBJECTS = Subjects()


class Unreliable(MemoryBucket):
    """A bucket whose broker goes away as told."""

    def __init__(self) -> None:
        super().__init__()
        self.away = False

    async def update(self, key: str, value: bytes, revision: int) -> int:
        if self.away:
            raise TransientError("the broker is away")
        return await super().update(key, value, revision)


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> float:
    """The time to live of a lease in seconds, shortened everywhere."""
    monkeypatch.setattr("services._runtime.topology.LEASE_SECONDS", 1.0)
    monkeypatch.setattr("services._runtime.leases.LEASE_SECONDS", 1.0)
    monkeypatch.setattr("services._runtime.leases.RENEWAL_SECONDS", 0.3)
    return 1.0


async def test_of_many_that_ask_at_once_one_gets_it() -> None:
    bucket = MemoryBucket()
    leases = [Lease(bucket, "tunnel.x", f"replica-{number}") for number in range(20)]
    assert sum(await asyncio.gather(*[lease.acquire() for lease in leases])) == 1
    assert sum(lease.held for lease in leases) == 1


async def test_who_holds_it_keeps_it_and_who_lets_go_leaves_it_to_others() -> None:
    bucket = MemoryBucket()
    one, two = Lease(bucket, "tunnel.x", "one"), Lease(bucket, "tunnel.x", "two")
    assert await one.acquire()
    assert await one.acquire()
    assert not await two.acquire()
    await two.release()
    assert await holders(bucket, "tunnel.") == {"tunnel.x": "one"}
    await one.release()
    assert not one.held
    assert await two.acquire()


async def test_a_holder_that_was_restarted_takes_its_own_lease_up_and_its_earlier_life_is_fenced_off() -> None:
    bucket = MemoryBucket()
    earlier, later = Lease(bucket, "tunnel.x", "one"), Lease(bucket, "tunnel.x", "one")
    assert await earlier.acquire()
    assert await later.acquire()
    assert not await earlier.acquire()
    assert not earlier.held
    assert later.held


async def test_a_lease_that_ran_out_unnoticed_is_not_renewed_over_the_new_holder() -> None:
    bucket = MemoryBucket()
    one, two = Lease(bucket, "tunnel.x", "one"), Lease(bucket, "tunnel.x", "two")
    assert await one.acquire()
    bucket.expire("tunnel.x")
    assert await two.acquire()
    assert not await one.acquire()
    assert await holders(bucket, "") == {"tunnel.x": "two"}


async def test_a_holder_without_broker_believes_in_its_lease_no_longer_than_the_broker_does(short: float) -> None:
    bucket = Unreliable()
    lease = Lease(bucket, "tunnel.x", "one")
    begun = asyncio.get_running_loop().time()
    assert await lease.acquire()
    bucket.away = True
    assert await lease.acquire(), "a moment without broker costs nothing"
    async with asyncio.timeout(5):
        while lease.held:
            await asyncio.sleep(0.01)
    assert asyncio.get_running_loop().time() - begun < short
    assert not await lease.acquire()


async def test_keep_tells_when_the_lease_is_won_and_lost(short: float) -> None:
    bucket = MemoryBucket()
    lease, changes = Lease(bucket, "tunnel.x", "one"), asyncio.Queue[bool]()
    keeping = asyncio.create_task(lease.keep(changes.put_nowait))
    async with asyncio.timeout(5):
        assert await changes.get()
        await bucket.put("tunnel.x", b"two")
        assert not await changes.get()
        await bucket.delete("tunnel.x")
        assert await changes.get()
    keeping.cancel()
    assert changes.empty()


async def test_holders_are_listed_by_the_beginning_of_their_name() -> None:
    bucket = MemoryBucket()
    for name, holder in (("tunnel.a", "one"), ("tunnel.b", "two"), ("poller.a", "three")):
        assert await Lease(bucket, name, holder).acquire()
    assert await holders(bucket, "tunnel.") == {"tunnel.a": "one", "tunnel.b": "two"}


async def test_a_dead_holder_costs_the_time_to_live_and_no_moment_has_two(tmp_path: Path, short: float) -> None:
    async with nats_server(tmp_path) as server:
        client = await nats.connect(server.url)
        await topology.apply(client.jetstream(), SUBJECTS, Retention())
        bucket = JetStreamBucket(client.jetstream(), SUBJECTS, "leases")
        dead, other = Lease(bucket, "tunnel.x", "dead"), Lease(bucket, "tunnel.x", "other")
        assert await dead.acquire()
        begun = asyncio.get_running_loop().time()
        async with asyncio.timeout(10):
            while not await other.acquire():
                await asyncio.sleep(0.02)
        assert not dead.held
        assert asyncio.get_running_loop().time() - begun > short / 2
        assert not await dead.acquire()
        entry = await bucket.get("tunnel.x")
        assert entry is not None
        with pytest.raises(KeyTakenError):
            await bucket.update("tunnel.x", b"dead", entry[1] - 1)
        await other.release()
        assert await dead.acquire(), "a lease that was let go is free at once"
        await client.close()


async def test_a_lease_that_is_renewed_outlives_its_time_to_live(tmp_path: Path, short: float) -> None:
    async with nats_server(tmp_path) as server:
        client = await nats.connect(server.url)
        await topology.apply(client.jetstream(), SUBJECTS, Retention())
        bucket = JetStreamBucket(client.jetstream(), SUBJECTS, "leases")
        lease, other = Lease(bucket, "tunnel.x", "one"), Lease(bucket, "tunnel.x", "two")
        changes = asyncio.Queue[bool]()
        keeping = asyncio.create_task(lease.keep(changes.put_nowait))
        assert await changes.get()
        until = asyncio.get_running_loop().time() + 2 * short
        while asyncio.get_running_loop().time() < until:
            assert not await other.acquire()
            await asyncio.sleep(0.05)
        assert lease.held
        assert changes.empty()
        keeping.cancel()
        await client.close()
