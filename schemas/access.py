"""Who signed in, and what a user may use: the events that say so, and the read model the spawn form is made from."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import msgspec
from msgspec import Meta

from schemas.base import (
    Count,
    HubNameField,
    Message,
    PositiveInt,
    ShortText,
    SignInIdField,
    Slug,
    SystemNameField,
    UserNameField,
    UtcDatetime,
)

Name = Annotated[str, Meta(min_length=1, max_length=64)]


class ProjectAccess(msgspec.Struct, frozen=True, kw_only=True):
    """A project that may pay, and the partitions it may run on."""

    name: Name
    partitions: list[Name] = []


class AccountAccess(msgspec.Struct, frozen=True, kw_only=True):
    """An HPC account of the user and its projects."""

    name: Name
    projects: list[ProjectAccess] = []


class SystemAccess(msgspec.Struct, frozen=True, kw_only=True):
    """One system the user may use: accounts on an HPC system, flavours on a cloud."""

    system: SystemNameField
    accounts: list[AccountAccess] = []
    flavours: list[Name] = []
    site_identity: Annotated[str, Meta(max_length=255)] = ""


class PartitionLimit(msgspec.Struct, frozen=True, kw_only=True):
    """What an organisation lets one start ask of a partition at most; an absent field leaves it to the partition."""

    system: SystemNameField
    partition: Name
    max_nodes: PositiveInt | None = None
    max_gpus: Count | None = None
    max_runtime_seconds: PositiveInt | None = None


class OptionDefaults(msgspec.Struct, frozen=True, kw_only=True):
    """What a start of the organisation's members takes on a system where its user says nothing else."""

    system: SystemNameField
    partition: Annotated[str, Meta(max_length=64)] = ""
    flavour: Annotated[str, Meta(max_length=64)] = ""
    image: Annotated[str, Meta(max_length=64)] = ""
    reservation: Annotated[str, Meta(max_length=64)] = ""
    runtime_seconds: PositiveInt | None = None
    nodes: PositiveInt | None = None
    gpus: Count | None = None


class OrganisationAccess(msgspec.Struct, frozen=True, kw_only=True):
    """A virtual organisation as one of its members sees it. No systems named: all the user has.

    It holds from `valid_from` until before `valid_until`; absent: without bound.
    """

    name: Slug
    title: ShortText = ""
    systems: list[SystemNameField] = []
    limits: list[PartitionLimit] = []
    valid_from: UtcDatetime | None = None
    valid_until: UtcDatetime | None = None
    defaults: list[OptionDefaults] = []

    def holds_at(self, moment: datetime) -> bool:
        """Whether a time lies within its bounds."""
        begun = self.valid_from is None or self.valid_from <= moment
        return begun and (self.valid_until is None or moment < self.valid_until)


class AccessRecord(msgspec.Struct, frozen=True, kw_only=True):
    """All a user may use: the value in the key-value bucket `access`, under the user's slug."""

    user: UserNameField
    vos: list[Slug] = msgspec.field(default_factory=lambda: ["default"])
    systems: list[SystemAccess] = []
    organisations: list[OrganisationAccess] = []


class AccessChanged(Message, frozen=True, kw_only=True, tag="access-changed.v1"):
    """What a user may use changed; `record` is what holds from now on."""

    user: UserNameField
    record: AccessRecord
    reason: ShortText = ""


class SignInEvent(Message, frozen=True, kw_only=True):
    """Base of what happens to one sign-in of a user: at which hub, and which sign-in it is."""

    user: UserNameField
    hub: HubNameField
    sign_in: SignInIdField


class SignedIn(SignInEvent, frozen=True, kw_only=True, tag="signed-in.v1"):
    """A user proved who they are. Tokens and claims are in the vault under `<sign-in>.accounts`, never here.

    `level` is the provider's `acr`, `methods` its `amr`, `authenticated_at` its `auth_time`.
    """

    level: Annotated[str, Meta(max_length=255)] = ""
    methods: list[Name] = msgspec.field(default_factory=list)
    authenticated_at: UtcDatetime | None = None


class SignedOut(SignInEvent, frozen=True, kw_only=True, tag="signed-out.v1"):
    """The user ended this sign-in: its tokens are not needed any more."""


AnySignInEvent = SignedIn | SignedOut
