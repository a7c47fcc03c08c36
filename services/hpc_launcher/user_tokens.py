"""The user's own access token, had from accounts at the moment it is needed. Keeps none."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import cast

import msgspec

from schemas.base import UserName
from schemas.rpc import AccessToken, AccessTokenAnswer, AccessTokenWanted, NoAccessToken
from schemas.subjects import Subjects
from services._runtime.errors import PermanentError, TransientError
from services._runtime.rpc import Rpc
from services._runtime.vault import Vault

ACCOUNTS = "accounts"
ANSWER_SECONDS = 15.0
"""How long accounts may take: they may have to ask the identity provider first."""

OwnToken = Callable[[UserName], Awaitable[str]]
"""A user's access token that holds for minutes yet. Raises TransientError, or PermanentError: sign in again."""


class AccountsTokens:
    """Asks accounts, under a service's name; what they answer is sealed to that service."""

    def __init__(self, *, rpc: Rpc, subjects: Subjects, vault: Vault, service: str) -> None:
        self._rpc = rpc
        self._subject = subjects.question(ACCOUNTS, "access-token")
        self._vault = vault
        self._service = service

    def for_audience(self, audience: str) -> OwnToken:
        """Tokens for one audience; the empty one is whatever the provider takes for granted."""

        async def own_token(user: UserName) -> str:
            return await self.token(user, audience)

        return own_token

    async def token(self, user: UserName, audience: str) -> str:
        """See OwnToken."""
        question = msgspec.json.encode(AccessTokenWanted(user=user, audience=audience))
        answered = await self._rpc.ask(self._subject, self._service, question, timeout_seconds=ANSWER_SECONDS)
        try:
            # `type[...]` cannot say a union, which msgspec takes all the same.
            answer = msgspec.json.decode(answered, type=cast("type[AccessTokenAnswer]", AccessTokenAnswer))
        except msgspec.MsgspecError:
            raise TransientError("accounts answered something that is no answer about a token") from None
        if isinstance(answer, NoAccessToken):
            if answer.retry:
                raise TransientError(answer.reason)
            raise PermanentError(answer.code, answer.reason, answer.remedy)
        return self._vault.unseal(answer.sealed, AccessToken).value
