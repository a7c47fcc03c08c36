"""Virtual organisations: who is a member, and what being one allows. Pure: reads no provider and knows no clock.

Everybody is a member of `default`, whether it is configured or not. What an organisation allows narrows what a user has
and never widens it.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from typing import Annotated

import msgspec
from msgspec import Meta

from schemas.access import OptionDefaults, OrganisationAccess, PartitionLimit
from schemas.base import Count, PositiveInt, ShortText, Slug, SystemName, UserName, UtcDatetime
from services._runtime.systems import SecondFactor

DEFAULT = "default"


class Limit(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one start may ask of a partition at most, for members."""

    max_nodes: PositiveInt | None = None
    max_gpus: Count | None = None
    max_runtime_seconds: PositiveInt | None = None


class Defaults(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a start takes where its user says nothing else: a partition or, on a cloud, a flavour and an image."""

    partition: str = ""
    flavour: str = ""
    image: str = ""
    reservation: str = ""
    runtime_seconds: PositiveInt | None = None
    nodes: PositiveInt | None = None
    gpus: Count | None = None


class Organisation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One virtual organisation. Members are `users` and whoever is in one of `groups` (entitlement URNs).

    `systems` names those its members may use as members; none named: all they have. `limits` are by system and
    partition, `defaults` by system. `valid_from` and `valid_until` bound it, as for a workshop. The heaviest comes
    first on the page. What `second_factor` says a member's sign-in must be, it must be for a start as a member.
    """

    name: Slug
    title: ShortText = ""
    users: list[str] = []
    groups: list[Annotated[str, Meta(min_length=1)]] = []
    systems: list[str] = []
    limits: dict[str, dict[str, Limit]] = {}
    defaults: dict[str, Defaults] = {}
    valid_from: UtcDatetime | None = None
    valid_until: UtcDatetime | None = None
    weight: int = 0
    second_factor: SecondFactor | None = None


def memberships(user: UserName, groups: Set[str], organisations: Sequence[Organisation]) -> list[OrganisationAccess]:
    """The organisations a user is a member of, the heaviest first; `groups` by canonical name, as configured ones are.

    An organisation without users and groups has nobody, but for `default`, which has everybody.
    """
    configured = {each.name: each for each in organisations}
    default = configured.get(DEFAULT, Organisation(name=DEFAULT))
    theirs = [
        each for each in organisations if each.name != DEFAULT and (user in each.users or groups & set(each.groups))
    ]
    ordered = sorted([*theirs, default], key=lambda each: (-each.weight, each.name != DEFAULT, each.name))
    return [as_member(each) for each in ordered]


def as_member(organisation: Organisation) -> OrganisationAccess:
    """An organisation as its members see it."""
    return OrganisationAccess(
        name=organisation.name,
        title=organisation.title,
        systems=[SystemName(name) for name in organisation.systems],
        limits=[
            PartitionLimit(
                system=SystemName(system),
                partition=partition,
                max_nodes=limit.max_nodes,
                max_gpus=limit.max_gpus,
                max_runtime_seconds=limit.max_runtime_seconds,
            )
            for system, partitions in organisation.limits.items()
            for partition, limit in partitions.items()
        ],
        defaults=[
            OptionDefaults(system=SystemName(system), **msgspec.structs.asdict(defaults))
            for system, defaults in organisation.defaults.items()
        ],
        valid_from=organisation.valid_from,
        valid_until=organisation.valid_until,
    )


def allows(organisation: OrganisationAccess, system: SystemName) -> bool:
    """Whether its members may use a system as such."""
    return not organisation.systems or system in organisation.systems


def limit_of(organisation: OrganisationAccess, system: SystemName, partition: str) -> PartitionLimit | None:
    """What it lets one start ask of a partition at most, where it says so."""
    here = (each for each in organisation.limits if (each.system, each.partition) == (system, partition))
    return next(here, None)
