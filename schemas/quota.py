"""Changes of a quota's limit or use. Whether a start fits is decided by the accounts service."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from schemas.base import Count, Message, SessionIdField, ShortText, Slug, SystemNameField, UserNameField


class LimitSet(msgspec.Struct, frozen=True, kw_only=True, tag_field="change", tag="limit-set"):
    """An operator set the limit; `by` and `reason` say who and why."""

    by: Annotated[str, Meta(max_length=255)]
    reason: ShortText


class Reserved(msgspec.Struct, frozen=True, kw_only=True, tag_field="change", tag="reserved"):
    """A session took its share."""

    session: SessionIdField
    user: UserNameField
    amount: Count


class Released(msgspec.Struct, frozen=True, kw_only=True, tag_field="change", tag="released"):
    """A session gave its share back."""

    session: SessionIdField
    user: UserNameField
    amount: Count


class QuotaUpdated(Message, frozen=True, kw_only=True, tag="quota-updated.v1"):
    """One change of one quota, with the limit and the use after it. No limit: `limit` is absent."""

    vo: Slug
    system: SystemNameField
    resource: Slug
    limit: Count | None = None
    used: Count
    change: LimitSet | Reserved | Released
