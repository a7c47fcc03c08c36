"""What a user may use: the event that says it changed, and the read model the spawn form is made from."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from schemas.base import Message, ShortText, Slug, SystemNameField, UserNameField

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


class AccessRecord(msgspec.Struct, frozen=True, kw_only=True):
    """All a user may use: the value in the key-value bucket `access`, under the user's slug."""

    user: UserNameField
    vos: list[Slug] = msgspec.field(default_factory=lambda: ["default"])
    systems: list[SystemAccess] = []


class AccessChanged(Message, frozen=True, kw_only=True, tag="access-changed.v1"):
    """What a user may use changed; `record` is what holds from now on."""

    user: UserNameField
    record: AccessRecord
    reason: ShortText = ""
