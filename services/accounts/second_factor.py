"""Whether a sign-in is good enough for what it is used for. Pure; the same for systems and organisations."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

import msgspec

from schemas.session import StepUp
from services._runtime.systems import SecondFactor

CLOCKS_SECONDS = 60.0
"""How far the provider's clock may be ahead of ours before a time of authentication is not believed."""


class Authentication(msgspec.Struct, frozen=True, kw_only=True):
    """How a user proved who they are: the provider's `acr`, `amr` and `auth_time`."""

    level: str = ""
    methods: Sequence[str] = ()
    at: datetime | None = None


class TooWeak(msgspec.Struct, frozen=True):
    """The sign-in is not good enough: why, what helps, and what to ask the provider for."""

    message: str
    remedy: str
    step_up: StepUp


def too_weak(required: SecondFactor, what: str, authentication: Authentication | None, now: datetime) -> TooWeak | None:
    """What is missing of a sign-in for `what` (as people know it), or None when it is good enough."""
    limit = required.max_age_seconds
    step_up = StepUp(levels=list(required.levels), max_age_seconds=limit)
    if authentication is None:
        return TooWeak(
            f"{what} wants a second factor, and this start did not come from a browser that signed in with one.",
            "Start it from the web page, signed in with your second factor.",
            step_up,
        )
    if not (authentication.level in required.levels or set(authentication.methods) & set(required.methods)):
        return TooWeak(
            f"{what} wants a second factor, and you signed in without one.",
            "Sign in with your second factor, then start again.",
            step_up,
        )
    if limit is None:
        return None
    if authentication.at is None or authentication.at > now + timedelta(seconds=CLOCKS_SECONDS):
        return TooWeak(
            f"{what} wants a recent sign-in, and yours does not say when it was.",
            "Sign in again, then start again.",
            step_up,
        )
    if now - authentication.at > timedelta(seconds=limit):
        return TooWeak(
            f"{what} wants a sign-in of the last {_in_words(limit)}, and yours is older.",
            "Sign in again, then start again.",
            step_up,
        )
    return None


def _in_words(seconds: int) -> str:
    if seconds % 3600 == 0:
        return f"{seconds // 3600} h"
    return f"{seconds // 60} minutes" if seconds % 60 == 0 else f"{seconds} s"
