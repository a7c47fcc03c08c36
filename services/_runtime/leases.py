"""Leases: who serves what now. A lease is a key with a time to live, its revision the fencing token. No queue."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

import structlog

from services._runtime.errors import TransientError
from services._runtime.log import Bucket, KeyTakenError
from services._runtime.topology import LEASE_SECONDS

_log = structlog.get_logger("farlab.leases")

RENEWAL_SECONDS = LEASE_SECONDS / 3


class Lease:
    """One name that at most one holder has at a time.

    The holder stops believing in it a renewal before the broker lets it go, so that two never both act on it for long;
    what must never happen twice is protected by compare-and-append all the same.
    """

    def __init__(self, bucket: Bucket, name: str, holder: str) -> None:
        self.name = name
        self.holder = holder
        self._bucket = bucket
        self._revision = 0
        self._until = 0.0

    @property
    def held(self) -> bool:
        """Whether this holder may act now."""
        return asyncio.get_running_loop().time() < self._until

    async def acquire(self) -> bool:
        """Takes the lease if it is free, keeps it if it is ours: also from an earlier life under the same name."""
        begun = asyncio.get_running_loop().time()
        value = self.holder.encode()
        try:
            if self._revision:
                self._revision = await self._bucket.update(self.name, value, self._revision)
            else:
                self._revision = await self._take(value)
        except KeyTakenError:
            self._revision = 0
            self._until = 0.0
            return False
        except TransientError as error:
            _log.info("lease not renewed", lease=self.name, reason=error.reason)
            return self.held
        self._until = begun + LEASE_SECONDS - RENEWAL_SECONDS / 2
        return True

    async def _take(self, value: bytes) -> int:
        entry = await self._bucket.get(self.name)
        if entry is not None and entry[0] == value:
            return await self._bucket.update(self.name, value, entry[1])
        return await self._bucket.create(self.name, value)

    async def release(self) -> None:
        """Lets the lease go, so that another need not wait for its time to live."""
        if self._revision and self.held:
            with contextlib.suppress(TransientError):
                await self._bucket.delete(self.name)
        self._revision = 0
        self._until = 0.0

    async def keep(self, changed: Callable[[bool], None]) -> None:
        """Tries for the lease and renews it for ever; tells `changed` each time it is won or lost. Ends by cancel."""
        had = False
        while True:
            has = await self.acquire()
            if has != had:
                _log.info("lease won" if has else "lease lost", lease=self.name, holder=self.holder)
                changed(has)
                had = has
            await asyncio.sleep(RENEWAL_SECONDS)


async def holders(bucket: Bucket, prefix: str) -> dict[str, str]:
    """The leases whose names begin with the prefix, and who holds them."""
    held: dict[str, str] = {}
    for name in await bucket.keys():
        if name.startswith(prefix) and (entry := await bucket.get(name)) is not None:
            held[name] = entry[0].decode()
    return held
