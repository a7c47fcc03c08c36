"""What accounts do about sign-ins: take what they brought, renew them when asked, give tokens, end them.

Decides nobody's rights: what the provider says of a user is handed on to whoever learns it.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import datetime

import msgspec
import structlog

from schemas.access import SignedIn, SignedOut, SignInEvent
from schemas.base import SignInId, UserName, event_name
from schemas.rpc import (
    AccessToken,
    AccessTokenAnswer,
    AccessTokenSealed,
    AccessTokenWanted,
    NoAccessToken,
    RenewSignIn,
    SignInRenewed,
)
from schemas.secrets import SignInSecrets
from schemas.subjects import Subjects
from schemas.wire import decode
from services._runtime.delivery import Acknowledge, Bury, MisaddressedError, Retry, reaction
from services._runtime.errors import PermanentError, TransientError
from services._runtime.log import Delivery, Log, Subscription
from services._runtime.openid import UntrustedError
from services._runtime.rpc import Rpc
from services._runtime.vault import Vault
from services.accounts.ports import IdentityProvider, LearnsAccess, SignInOverError
from services.accounts.second_factor import Authentication
from services.accounts.tokens import SERVICE, HeldSignIn, TokenKeeper

_log = structlog.get_logger("farlab.accounts.sign_ins")

ACK_WAIT_SECONDS = 30.0


class SignInDesk:
    """Everything about sign-ins, for one replica of accounts."""

    def __init__(
        self,
        *,
        log: Log,
        rpc: Rpc,
        subjects: Subjects,
        vault: Vault,
        tokens: TokenKeeper,
        provider: IdentityProvider,
        learns: LearnsAccess,
        revoke_at_sign_out: bool,
        now: Callable[[], datetime],
    ) -> None:
        self._log = log
        self._rpc = rpc
        self._subjects = subjects
        self._vault = vault
        self._tokens = tokens
        self._provider = provider
        self._learns = learns
        self._revoke = revoke_at_sign_out
        self._now = now
        self._subscriptions: list[Subscription] = []

    async def start(self) -> None:
        """Takes sign-ins and questions from now on."""
        taking = await self._log.consume(
            SERVICE, "ACCESS", [self._subjects.sign_ins()], self._deliver, ack_wait_seconds=ACK_WAIT_SECONDS
        )
        self._subscriptions.append(taking)
        for question, answer in (("renew-sign-in", self._renew), ("access-token", self._access_token)):
            subject = self._subjects.question(SERVICE, question)
            self._subscriptions.append(await self._rpc.answer(subject, SERVICE, answer))

    async def close(self) -> None:
        """Takes nothing new."""
        while self._subscriptions:
            await self._subscriptions.pop().close()

    async def authentication(self, user: UserName, sign_in: SignInId | None) -> Authentication | None:
        """How well and when the user proved who they are in this sign-in; None if they did not. Raises TransientError.

        From the log: it holds after a restart, and of a sign-in that is over nothing holds.
        """
        if sign_in is None:
            return None
        found: Authentication | None = None
        for recorded in await self._log.history("ACCESS", self._subjects.sign_in(user, sign_in)):
            match recorded.message:
                case SignedIn(user=who) as event if who == user:
                    found = Authentication(level=event.level, methods=event.methods, at=event.authenticated_at)
                case SignedOut():
                    return None
                case _:
                    pass
        return found

    async def _deliver(self, delivery: Delivery) -> None:
        """Takes an event of a sign-in, and answers its delivery whatever happens."""
        try:
            event = decode(delivery.body)
            if not isinstance(event, SignInEvent) or self._subjects.sign_in_event(event) != delivery.subject:
                raise MisaddressedError(f"the body does not belong to its subject {delivery.subject}")
            await self.take(event)
            await delivery.acknowledge()
        except Exception as error:
            match reaction(error, delivery.attempt, random.random()):  # noqa: S311 - jitter, not a secret
                case Acknowledge():
                    await delivery.acknowledge()
                case Retry(delay_seconds=delay):
                    _log.info("again later", reason=str(error), exc_info=not isinstance(error, TransientError))
                    await delivery.retry(delay)
                case Bury(reason=reason):
                    _log.error("dead letter", subject=delivery.subject, reason=reason)
                    subject = self._subjects.dead_letter(SERVICE, delivery.subject.rpartition(".")[2])
                    await self._log.dead_letter(subject, delivery.body, {"Farlab-Reason": reason[:500]})
                    await delivery.acknowledge()

    async def take(self, event: SignInEvent) -> None:
        """Acts on an event of a sign-in. Safe to repeat. Raises TransientError."""
        match event:
            case SignedIn(user=user, sign_in=sign_in):
                try:
                    secrets = await self._vault.open(sign_in, SignInSecrets)
                except PermanentError as error:
                    _log.info("nothing to take of a sign-in", sign_in=sign_in, reason=error.reason)
                    return
                if secrets.user != user:
                    _log.error("a sign-in brought what belongs to another user", sign_in=sign_in)
                    return
                held = HeldSignIn(sign_in=sign_in, subject=secrets.subject, refresh_token=secrets.refresh_token)
                await self._tokens.keep(user, held)
                await self._learns.learn(user, secrets.claims, "signed in")
                await self._vault.forget_own(sign_in)
            case SignedOut(user=user, sign_in=sign_in):
                await self._tokens.forget(user, sign_in, revoke=self._revoke)
                await self._vault.forget_own(sign_in)
            case _:
                raise TypeError(f"{event_name(event)} is not known")

    async def _renew(self, asker: str, question: bytes) -> bytes:
        """Answers whether a sign-in goes on, and learns what the provider says by then."""
        del asker  # the broker lets the hub bridge alone ask this
        asked = msgspec.json.decode(question, type=RenewSignIn)
        try:
            return msgspec.json.encode(await self.renewed(asked.user, asked.sign_in))
        except (TransientError, UntrustedError) as error:
            return msgspec.json.encode(SignInRenewed(outcome="kept", reason=str(error)[:1024]))

    async def renewed(self, user: UserName, sign_in: SignInId) -> SignInRenewed:
        """What became of a sign-in. Raises TransientError or UntrustedError where the provider cannot tell."""
        held = next((each for each in await self._tokens.held(user) if each.sign_in == sign_in), None)
        if held is None:
            return await self._unknown(user, sign_in)
        if not held.refresh_token:
            return SignInRenewed(outcome="kept", reason="the provider gave no refresh token")
        try:
            fresh = await self._tokens.fresh(user, sign_in)
            try:
                claims = await self._provider.claims(fresh, held.subject)
            except SignInOverError:
                fresh = await self._tokens.fresh(user, sign_in, anew=True)
                claims = await self._provider.claims(fresh, held.subject)
        except SignInOverError as error:
            return SignInRenewed(outcome="over", reason=str(error)[:1024])
        await self._learns.learn(user, claims, "sign-in renewed")
        return SignInRenewed(outcome="renewed")

    async def _unknown(self, user: UserName, sign_in: SignInId) -> SignInRenewed:
        """A sign-in without tokens: one whose event is still on its way to us, or one that is over."""
        if f"{sign_in}.{SERVICE}" in await self._vault.names():
            return SignInRenewed(outcome="kept", reason="it has only just begun")
        _log.info("a sign-in is not known any more", user=user, sign_in=sign_in)
        return SignInRenewed(outcome="over", reason="its tokens are not kept any more")

    async def _access_token(self, asker: str, question: bytes) -> bytes:
        asked = msgspec.json.decode(question, type=AccessTokenWanted)
        return msgspec.json.encode(await self.access_token(asker, asked.user, asked.audience))

    async def access_token(self, asker: str, user: UserName, audience: str) -> AccessTokenAnswer:
        """A fresh access token of any sign-in of the user that still holds, sealed to the service that asks."""
        try:
            for held in await self._tokens.held(user):
                if not held.refresh_token:
                    continue
                try:
                    fresh = await self._tokens.fresh(user, held.sign_in, audience)
                except SignInOverError:
                    continue
                token = AccessToken(value=fresh.access_token, expires_at=fresh.expires_at)
                return AccessTokenSealed(sealed=self._vault.seal(asker, token))
        except TransientError as error:
            return NoAccessToken(
                code="provider-away",
                reason=f"No access token can be had now: {error.reason}"[:1024],
                remedy="Try again in a minute.",
                retry=True,
            )
        return NoAccessToken(
            code="sign-in-again",
            reason="No sign-in of this user holds any more.",
            remedy="Sign in again; what runs goes on.",
        )
