"""What services ask of accounts, and the answers. Not events: nothing of it is kept.

A question's subject is `<prefix>.v1.rpc.accounts.<question>.<service that asks>`.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from schemas.base import ShortText, SignInIdField, Slug, UserNameField, UtcDatetime


class RenewSignIn(msgspec.Struct, frozen=True, kw_only=True):
    """Hub bridge: ask the provider again about this sign-in, and learn what it says now."""

    user: UserNameField
    sign_in: SignInIdField


class SignInRenewed(msgspec.Struct, frozen=True, kw_only=True):
    """`over`: the provider holds the sign-in for ended. `kept`: it could not be asked, so what was known holds."""

    outcome: Literal["renewed", "kept", "over"]
    reason: ShortText = ""


class AccessTokenWanted(msgspec.Struct, frozen=True, kw_only=True):
    """A launcher: a fresh access token of this user, for this audience where the provider tells audiences apart."""

    user: UserNameField
    audience: Annotated[str, Meta(max_length=1024)] = ""


class AccessToken(msgspec.Struct, frozen=True, kw_only=True):
    """An access token and how long it holds: only ever sealed to the service that asked."""

    value: Annotated[str, Meta(min_length=1)]
    expires_at: UtcDatetime


class AccessTokenSealed(msgspec.Struct, frozen=True, kw_only=True, tag_field="answer", tag="token"):
    """An `AccessToken`, as a JWE to the service that asked."""

    sealed: str


class NoAccessToken(msgspec.Struct, frozen=True, kw_only=True, tag_field="answer", tag="none"):
    """There is none: a code for programs, a reason and remedy for people; `retry` where asking again may help."""

    code: Slug
    reason: ShortText
    remedy: ShortText
    retry: bool = False


AccessTokenAnswer = AccessTokenSealed | NoAccessToken
