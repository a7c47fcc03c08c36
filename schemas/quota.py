"""Changes of a quota's limit or use. Whether a start fits is decided by the accounts service."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from schemas.base import Count, Message, SessionIdField, ShortText, Slug, SystemNameField, UserNameField, UtcDatetime

LimitOf = Literal["all", "each-user"]
"""Whose use a limit bounds: that of all members together, or that of each."""
LimitValue = Count | Literal["unlimited", "configured"]


class LimitSet(msgspec.Struct, frozen=True, kw_only=True, tag_field="change", tag="limit-set"):
    """An operator set a limit; `by` and `reason` say who and why.

    `configured` gives the configuration its word back, as no value does; it is that of all where `of` is absent.
    """

    by: Annotated[str, Meta(max_length=255)]
    reason: ShortText
    of: LimitOf | None = None
    value: LimitValue | None = None


class Reserved(msgspec.Struct, frozen=True, kw_only=True, tag_field="change", tag="reserved"):
    """A session took its share: of a quota over time, the most it can use."""

    session: SessionIdField
    user: UserNameField
    amount: Count


class Released(msgspec.Struct, frozen=True, kw_only=True, tag_field="change", tag="released"):
    """A session gave its share back; of a quota over time it `consumed` what it really used."""

    session: SessionIdField
    user: UserNameField
    amount: Count
    consumed: Count = 0


class QuotaUpdated(Message, frozen=True, kw_only=True, tag="quota-updated.v1"):
    """One change of one quota, with its limits and the use after it. No limit: it is absent.

    `used` counts the shares that are held and, of a quota over time, what was consumed since `period_begins`.
    """

    vo: Slug
    system: SystemNameField
    resource: Slug
    limit: Count | None = None
    used: Count
    change: LimitSet | Reserved | Released
    per_user: Count | None = None
    period_begins: UtcDatetime | None = None
