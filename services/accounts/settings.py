"""The table `[accounts]` of `farlab.toml`. Reads no file."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from schemas.access import AccessRecord, AccountAccess, ProjectAccess, SystemAccess
from schemas.base import SystemName, UserName
from services._runtime.configuration import ConfigurationError
from services._runtime.settings import Configuration

Name = Annotated[str, Meta(min_length=1, max_length=64)]
QuotaResource = Literal["sessions", "nodes", "cores", "gpus"]


class UserAccount(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An HPC account of a user. `projects` names, per project, the partitions it may run on; none named: all."""

    name: Name
    projects: dict[Name, list[Name]]


class UserSystem(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a user may use on one system. `site_identity` is how the site knows the user (UNICORE: the DN)."""

    accounts: list[UserAccount] = []
    site_identity: str = ""


class User(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A configured user: the name in JupyterHub, virtual organisations, and systems by name."""

    name: Annotated[str, Meta(min_length=1, max_length=255)]
    vos: list[str] = msgspec.field(default_factory=lambda: ["default"])
    systems: dict[str, UserSystem] = msgspec.field(default_factory=dict)


class Quota(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A limit on what the sessions of a virtual organisation use at once on a system, in all and per user."""

    vo: str = "default"
    system: str
    resource: QuotaResource = "sessions"
    limit: Annotated[int, Meta(ge=0)] | None = None
    per_user: Annotated[int, Meta(ge=0)] | None = None


class AccountsSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All of `[accounts]`."""

    users: list[User] = []
    quotas: list[Quota] = []
    reconcile_seconds: Annotated[float, Meta(gt=0)] = 5.0


def accounts_settings(configuration: Configuration) -> AccountsSettings:
    """The table, checked against the system catalogue. Raises ConfigurationError."""
    settings = configuration.section("accounts", AccountsSettings)
    file = configuration.file
    known = ", ".join(configuration.systems)
    for user in settings.users:
        for name, system in user.systems.items():
            if name not in configuration.systems:
                raise ConfigurationError(
                    f"{file}: accounts.users {user.name!r}: no system {name!r}; there are: {known}"
                )
            partitions = configuration.systems[SystemName(name)].partitions
            for account in system.accounts:
                for project, allowed in account.projects.items():
                    for partition in allowed:
                        if partition not in partitions:
                            raise ConfigurationError(
                                f"{file}: accounts.users {user.name!r}: project {project!r} names partition "
                                f"{partition!r}, which {name} has not; there are: {', '.join(partitions)}"
                            )
    for quota in settings.quotas:
        if quota.system not in configuration.systems:
            raise ConfigurationError(f"{file}: accounts.quotas: no system {quota.system!r}; there are: {known}")
    return settings


def access_record(user: User) -> AccessRecord:
    """What a configured user may use, as everyone else reads it."""
    return AccessRecord(
        user=UserName(user.name),
        vos=user.vos,
        systems=[
            SystemAccess(
                system=SystemName(name),
                site_identity=system.site_identity,
                accounts=[
                    AccountAccess(
                        name=account.name,
                        projects=[ProjectAccess(name=name, partitions=some) for name, some in account.projects.items()],
                    )
                    for account in system.accounts
                ],
            )
            for name, system in user.systems.items()
        ],
    )
