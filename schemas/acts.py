"""What an operator does, by whom and why, as commands that services obey and as records. Carries nothing out."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from schemas.base import PERSONAL, HubNameField, Message, PositiveInt, SessionIdField, ShortText, Slug, SystemNameField
from schemas.quota import LimitOf, LimitValue


class Act(Message, frozen=True, kw_only=True):
    """Base of the acts: which service it is for, by whom, why."""

    service: Slug
    by: Annotated[str, Meta(min_length=1, max_length=255), PERSONAL]
    reason: ShortText


class SessionAct(Act, frozen=True, kw_only=True):
    """Base of the acts on one session, which `service` obeys."""

    hub: HubNameField
    system: SystemNameField
    session: SessionIdField


class AdoptionRequested(SessionAct, frozen=True, kw_only=True, tag="adoption-requested.v1"):
    """The session's job is this one at the site, on the operator's word."""

    job: Annotated[str, Meta(min_length=1, max_length=1024), PERSONAL]


class EndRequested(SessionAct, frozen=True, kw_only=True, tag="end-requested.v1"):
    """The session is over, on the operator's word, whatever the site says or does not say of its job."""


class DeadLetterRetried(SessionAct, frozen=True, kw_only=True, tag="dead-letter-retried.v1"):
    """The service shall decide the session of a dead letter anew; `letter` is its sequence in DEAD_LETTERS."""

    letter: PositiveInt


class DeadLetterDiscarded(Act, frozen=True, kw_only=True, tag="dead-letter-discarded.v1"):
    """Nothing needs doing about a dead letter any more; it stays in DEAD_LETTERS."""

    letter: PositiveInt


class SecretsPurged(Act, frozen=True, kw_only=True, tag="secrets-purged.v1"):
    """Sealed secrets were taken out of the vault; `names` are their keys."""

    names: list[Annotated[str, Meta(max_length=255)]]


class LimitRequested(Act, frozen=True, kw_only=True, tag="limit-requested.v1"):
    """A quota shall have this limit from now on; accounts obey with a `quota-updated`."""

    vo: Slug
    system: SystemNameField
    resource: Slug
    of: LimitOf = "all"
    value: LimitValue


AnyAct = AdoptionRequested | EndRequested | DeadLetterRetried | DeadLetterDiscarded | SecretsPurged | LimitRequested
