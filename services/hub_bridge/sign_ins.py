"""Sign-ins as the rest of Farlab hears of them: what they brought goes sealed to accounts, that they were into the log.

Holds no token: accounts alone have refresh tokens, because a provider that rotates them takes a second holder for a
thief. What stays with the hub, sealed to itself, is the ID token that the provider wants back at the sign-out.
"""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec
from ulid import ULID

from schemas.access import SignedIn, SignedOut, SignInEvent
from schemas.base import HubName, SignInId, UserName
from schemas.rpc import RenewSignIn, SignInRenewed
from schemas.secrets import SignInSecrets
from schemas.subjects import Subjects
from services._runtime.errors import PermanentError, TransientError
from services._runtime.identity import Stamp
from services._runtime.log import ConflictError, Log
from services._runtime.openid import Claims
from services._runtime.rpc import Rpc
from services._runtime.vault import Vault
from services.hub_bridge.secrets import ACCOUNTS, SERVICE

ANSWER_SECONDS = 15.0
"""How long accounts may take to renew a sign-in: they ask the provider."""


class HubSignIn(msgspec.Struct, frozen=True, kw_only=True):
    """For the hub bridge itself: whose sign-in it is, and what the provider wants back at its end."""

    user: str
    id_token: str


class SignIns:
    """The sign-ins at one hub."""

    def __init__(self, *, log: Log, rpc: Rpc, vault: Vault, subjects: Subjects, stamp: Stamp, hub: HubName) -> None:
        self._log = log
        self._rpc = rpc
        self._vault = vault
        self._subjects = subjects
        self._stamp = stamp
        self._hub = hub

    async def begin(self, secrets: SignInSecrets, claims: Claims, id_token: str) -> SignInId:
        """Hands over a sign-in; returns its id when accounts will hear of it. Raises TransientError."""
        sign_in = SignInId(str(ULID()).lower())
        await self._vault.put(sign_in, ACCOUNTS, secrets)
        await self._vault.put(sign_in, SERVICE, HubSignIn(user=secrets.user, id_token=id_token))
        at = datetime.fromtimestamp(claims.auth_time, UTC) if claims.auth_time else None
        await self._say(
            SignedIn(
                user=UserName(secrets.user),
                hub=self._hub,
                sign_in=sign_in,
                level=claims.acr[:255],
                methods=[method[:64] for method in claims.amr if method],
                authenticated_at=at,
            )
        )
        return sign_in

    async def renewed(self, user: str, sign_in: SignInId) -> SignInRenewed:
        """What the provider says of a sign-in now, by way of accounts. Raises TransientError."""
        question = msgspec.json.encode(RenewSignIn(user=UserName(user), sign_in=sign_in))
        subject = self._subjects.question(ACCOUNTS, "renew-sign-in")
        answer = await self._rpc.ask(subject, SERVICE, question, timeout_seconds=ANSWER_SECONDS)
        try:
            return msgspec.json.decode(answer, type=SignInRenewed)
        except msgspec.MsgspecError as error:
            raise TransientError(f"accounts answered what cannot be read: {error}") from None

    async def end(self, user: str, sign_in: SignInId) -> str:
        """Ends a sign-in; returns the ID token for the provider, or nothing if it is gone. Raises TransientError."""
        try:
            kept = await self._vault.open(sign_in, HubSignIn)
        except PermanentError:
            return ""
        if kept.user != user:
            return ""
        await self._say(SignedOut(user=UserName(user), hub=self._hub, sign_in=sign_in))
        await self._vault.forget_own(sign_in)
        return kept.id_token

    async def _say(self, event: SignInEvent) -> None:
        scope = self._subjects.sign_in(event.user, event.sign_in)
        after = 0
        while True:
            stamped = self._stamp(event, after=after, cause=None)
            try:
                await self._log.append("ACCESS", self._subjects.sign_in_event(event), stamped, scope=scope, after=after)
            except ConflictError as conflict:
                if any(type(each.message) is type(event) for each in conflict.history):
                    return
                after = conflict.history[-1].sequence
            else:
                return
