"""What accounts need of the world around sign-ins: an identity provider, and somebody who learns what it says."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Protocol

import msgspec

from schemas.base import UserName


class SignInOverError(Exception):
    """The provider holds a sign-in for ended: its refresh token is spent, revoked or too old."""


class Refreshed(msgspec.Struct, frozen=True, kw_only=True):
    """What a refresh token was turned into. `refresh_token` is the next one; `id_token` may be empty."""

    access_token: str
    expires_at: datetime
    refresh_token: str
    id_token: str = ""


class IdentityProvider(Protocol):
    """The provider through which users sign in."""

    async def refresh(self, refresh_token: str, audience: str = "") -> Refreshed:
        """Spends a refresh token for the next one. Raises SignInOverError or TransientError."""

    async def claims(self, fresh: Refreshed, subject: str) -> dict[str, Any]:
        """What the provider says of the person now. Raises SignInOverError, TransientError or UntrustedError."""

    async def revoke(self, refresh_token: str) -> None:
        """Tells the provider that a token is not needed any more. Raises TransientError."""


class LearnsAccess(Protocol):
    """Who works out what a user may use from what the provider says of them."""

    async def learn(self, user: UserName, claims: Mapping[str, object], reason: str) -> None:
        """Takes the newest claims. Raises TransientError when it must be told again."""
