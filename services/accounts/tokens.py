"""The refresh tokens of all sign-ins, and fresh access tokens made of them. Speaks to nobody but the provider's port.

Accounts are the only holder: a refresh token is spent once, by one replica, for everybody who waits for what it brings.
At rest a user's tokens are one sealed entry, changed by compare-and-put; access tokens are in memory alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any
from weakref import WeakValueDictionary

import msgspec
import structlog

from schemas.base import SignInId, UserName
from schemas.subjects import slug
from services._runtime.errors import PermanentError, TransientError
from services._runtime.leases import Lease
from services._runtime.log import Bucket, KeyTakenError
from services._runtime.tasks import end
from services._runtime.vault import Vault
from services.accounts.ports import IdentityProvider, Refreshed, SignInOverError

_log = structlog.get_logger("farlab.accounts.tokens")

SERVICE = "accounts"
MOST_SIGN_INS = 8
"""How many sign-ins of a user are kept, newest first: the browsers a person has in use."""
LEASE_TRIES = 40
LEASE_TRY_SECONDS = 0.25


class HeldSignIn(msgspec.Struct, frozen=True, kw_only=True):
    """A sign-in and its refresh token; empty where the provider gave none."""

    sign_in: SignInId
    subject: str
    refresh_token: str


class HeldSignIns(msgspec.Struct, frozen=True, kw_only=True):
    """All sign-ins of a user, newest first: what is sealed."""

    user: UserName
    sign_ins: list[HeldSignIn] = []


Change = Callable[[list[HeldSignIn]], list[HeldSignIn]]


class TokenKeeper:
    """Keeps, spends and gives up refresh tokens."""

    def __init__(
        self,
        *,
        bucket: Bucket,
        leases: Bucket,
        vault: Vault,
        provider: IdentityProvider,
        replica: str,
        now: Callable[[], datetime],
    ) -> None:
        """`vault` seals to accounts and opens what was sealed so; `replica` is this process among its likes."""
        self._bucket = bucket
        self._leases = leases
        self._vault = vault
        self._provider = provider
        self._replica = replica
        self._now = now
        self._fresh: dict[tuple[SignInId, str], tuple[Refreshed, datetime]] = {}
        self._refreshing: dict[tuple[SignInId, str], asyncio.Task[Refreshed]] = {}
        self._turns: WeakValueDictionary[UserName, asyncio.Lock] = WeakValueDictionary()

    async def keep(self, user: UserName, held: HeldSignIn) -> None:
        """Keeps a new sign-in's refresh token. Safe to repeat. Raises TransientError."""

        def first(sign_ins: list[HeldSignIn]) -> list[HeldSignIn]:
            if any(each.sign_in == held.sign_in for each in sign_ins):
                return sign_ins  # told again: what is kept may have been rotated since
            return [held, *sign_ins][:MOST_SIGN_INS]

        await self._change(user, first)

    async def held(self, user: UserName) -> Sequence[HeldSignIn]:
        """The user's sign-ins, newest first. Raises TransientError."""
        return (await self._read(user))[0]

    async def forget(self, user: UserName, sign_in: SignInId, *, revoke: bool) -> None:
        """Gives up a sign-in's tokens, telling the provider first where told to. Safe to repeat."""
        held = next((each for each in await self.held(user) if each.sign_in == sign_in), None)
        for key in [key for key in self._fresh if key[0] == sign_in]:
            del self._fresh[key]
        if held is None:
            return
        if revoke and held.refresh_token:
            await self._provider.revoke(held.refresh_token)
        await self._change(user, lambda all_: [each for each in all_ if each.sign_in != sign_in])

    async def fresh(self, user: UserName, sign_in: SignInId, audience: str = "", *, anew: bool = False) -> Refreshed:
        """An access token of a sign-in with at least half its life before it, or a new one where `anew`.

        Who asks while one is being made gets that one. Raises SignInOverError, and forgets what is over; or
        TransientError.
        """
        key = (sign_in, audience)
        known = self._fresh.get(key)
        if known is not None and not anew and self._now() < known[1]:
            return known[0]
        task = self._refreshing.get(key)
        if task is None:
            task = self._refreshing[key] = asyncio.create_task(self._refresh(user, sign_in, audience))
            task.add_done_callback(lambda _: self._refreshing.pop(key, None))
            task.add_done_callback(_seen)
        return await asyncio.shield(task)

    async def _refresh(self, user: UserName, sign_in: SignInId, audience: str) -> Refreshed:
        async with self._turns.setdefault(user, asyncio.Lock()):
            lease = Lease(self._leases, f"tokens-{slug(user)}", self._replica)
            await _taken(lease)
            keeping = asyncio.create_task(lease.keep(_nothing))  # a slow provider takes longer than a lease lives
            try:
                held = next((each for each in await self.held(user) if each.sign_in == sign_in), None)
                if held is None or not held.refresh_token:
                    raise SignInOverError("no refresh token is kept")
                try:
                    fresh = await self._provider.refresh(held.refresh_token, audience)
                except SignInOverError:
                    await self._change(user, lambda all_: [each for each in all_ if each.sign_in != sign_in])
                    raise
                await self._rotate(user, sign_in, fresh.refresh_token)
            finally:
                await end([keeping])
                await lease.release()
        half = (fresh.expires_at - self._now()) / 2
        self._fresh = {key: each for key, each in self._fresh.items() if self._now() < each[1]}
        self._fresh[sign_in, audience] = fresh, self._now() + half
        return fresh

    async def _rotate(self, user: UserName, sign_in: SignInId, refresh_token: str) -> None:
        """Keeps the next refresh token, whatever it takes: the last one is spent."""

        def rotated(sign_ins: list[HeldSignIn]) -> list[HeldSignIn]:
            return [
                msgspec.structs.replace(each, refresh_token=refresh_token) if each.sign_in == sign_in else each
                for each in sign_ins
            ]

        for attempt in range(LEASE_TRIES):
            try:
                await self._change(user, rotated)
                return
            except TransientError as error:
                if attempt == LEASE_TRIES - 1:
                    raise
                _log.warning("a rotated token is not kept yet", reason=error.reason)
            await asyncio.sleep(LEASE_TRY_SECONDS)

    async def _read(self, user: UserName) -> tuple[list[HeldSignIn], int]:
        entry = await self._bucket.get(slug(user))
        if entry is None:
            return [], 0
        try:
            kept = self._vault.unseal(entry[0], HeldSignIns)
        except PermanentError as error:
            _log.error("kept tokens cannot be opened; users sign in again", reason=error.reason)
            return [], entry[1]
        return (kept.sign_ins if kept.user == user else []), entry[1]

    async def _change(self, user: UserName, change: Change) -> None:
        while True:
            before, revision = await self._read(user)
            after = change(before)
            if after == before:
                return
            try:
                if not after:
                    await self._bucket.delete(slug(user))
                    return
                sealed = self._vault.seal(SERVICE, HeldSignIns(user=user, sign_ins=after)).encode()
                if revision:
                    await self._bucket.update(slug(user), sealed, revision)
                else:
                    await self._bucket.create(slug(user), sealed)
            except KeyTakenError:
                continue
            return


async def _taken(lease: Lease) -> None:
    """Waits for its turn among replicas. Raises TransientError when another has it for too long."""
    for _ in range(LEASE_TRIES):
        if await lease.acquire():
            return
        await asyncio.sleep(LEASE_TRY_SECONDS)
    raise TransientError("another replica is refreshing this user's tokens and does not finish")


def _nothing(_: bool) -> None:
    """Whoever loses the lease all the same finishes: its token is spent already."""


def _seen(task: asyncio.Task[Any]) -> None:
    if not task.cancelled():
        task.exception()
