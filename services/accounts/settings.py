"""The table `[accounts]` of `farlab.toml`. Reads no file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from schemas.access import AccessRecord, AccountAccess, ProjectAccess, SystemAccess
from schemas.base import SystemName, UserName
from services._runtime.configuration import ConfigurationError
from services._runtime.settings import Configuration
from services._runtime.systems import check_second_factor
from services.accounts.organisations import Organisation
from services.accounts.rights.claims import ClaimNames
from services.accounts.rights.entitlements import canonical_group

Name = Annotated[str, Meta(min_length=1, max_length=64)]
QuotaResource = Literal["sessions", "nodes", "cores", "gpus", "memory-bytes", "core-seconds", "gpu-seconds"]
Period = Literal["day", "week", "month"]
OVER_TIME = frozenset({"core-seconds", "gpu-seconds"})
"""Resources that are used up over a period, and not given back at a session's end."""


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
    """A limit on what the sessions of a virtual organisation use on a system, in all and per user.

    It bounds what is used at once or, of `core-seconds` and `gpu-seconds`, in a `period`. `when_full` says whether a
    start that does not fit waits its turn.
    """

    vo: str = "default"
    system: str
    resource: QuotaResource = "sessions"
    limit: Annotated[int, Meta(ge=0)] | None = None
    per_user: Annotated[int, Meta(ge=0)] | None = None
    period: Period | None = None
    when_full: Literal["reject", "wait"] = "reject"


class Waiting(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How starts wait their turn. The line is that of an organisation at a system; `most` starts stand in it.

    A start waits at most `longest_seconds`, and never beyond its own deadline. `when_drained` says whether a start
    waits for a system that takes none.
    """

    when_drained: Literal["reject", "wait"] = "reject"
    longest_seconds: Annotated[float, Meta(gt=0)] = 3600.0
    most: Annotated[int, Meta(ge=1)] = 200
    most_per_user: Annotated[int, Meta(ge=1)] = 3


USER = "{user}"


class PullSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where accounts ask for a user's claims; `{user}` in the address is the name. Each user every `every_seconds`.

    `token_file` holds a bearer token. The answer is a JSON object with the claims that `[accounts.claims]` names.
    """

    url: Annotated[str, Meta(pattern=r"^https?://")]
    token_file: str = ""
    ca_file: str = ""
    every_seconds: Annotated[float, Meta(gt=0)] = 300.0
    timeout_seconds: Annotated[float, Meta(gt=0)] = 10.0
    at_once: Annotated[int, Meta(ge=1, le=64)] = 4


class AccountsSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All of `[accounts]`.

    `claims` names what the identity provider delivers, `pull` where the same is asked for between sign-ins.
    `when_rights_end` says what becomes of running sessions whose user may not use their place any more; new starts are
    refused at once either way.
    """

    users: list[User] = []
    claims: ClaimNames = ClaimNames()
    pull: PullSettings | None = None
    organisations: list[Organisation] = []
    when_rights_end: Literal["let-run", "stop"] = "let-run"
    quotas: list[Quota] = []
    waiting: Waiting = Waiting()
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
    organisations = [_canonical(each, configuration, file) for each in settings.organisations]
    names = [each.name for each in organisations]
    for name in names:
        if names.count(name) > 1:
            raise ConfigurationError(
                f"{file}: accounts.organisations: {name!r} is there twice; give each a name of its own"
            )
    settings = msgspec.structs.replace(settings, organisations=organisations)
    if settings.pull is not None:
        _check_pull(settings.pull, file)
    seen = set()
    for quota in settings.quotas:
        _check_quota(quota, configuration, file)
        if (key := (quota.vo, quota.system, quota.resource)) in seen:
            raise ConfigurationError(f"{file}: accounts.quotas: {' '.join(key)} is there twice; keep one")
        seen.add(key)
    return settings


def _check_pull(settings: PullSettings, file: Path) -> None:
    """Raises ConfigurationError for an address that names no user, or that would send rights and tokens in the open."""
    where = f"{file}: accounts.pull.url = {settings.url!r}"
    if USER not in settings.url:
        raise ConfigurationError(f"{where}: names no user; put {USER} where the name goes")
    host = urlsplit(settings.url).hostname
    if settings.url.startswith("http://") and host not in ("127.0.0.1", "::1", "localhost"):
        raise ConfigurationError(f"{where}: not encrypted; use https")


def _check_quota(quota: Quota, configuration: Configuration, file: Path) -> None:
    where = f"{file}: accounts.quotas of {quota.resource}"
    if quota.system not in configuration.catalogue:
        known = ", ".join(configuration.catalogue)
        raise ConfigurationError(f"{where}: no system {quota.system!r}; there are: {known}")
    over_time = quota.resource in OVER_TIME
    if over_time and quota.period is None:
        raise ConfigurationError(f'{where}: period is missing; add period = "day", "week" or "month"')
    if not over_time and quota.period is not None:
        raise ConfigurationError(
            f"{where}: period = {quota.period!r}: only {' and '.join(sorted(OVER_TIME))} have one; leave it out"
        )


def _canonical(organisation: Organisation, configuration: Configuration, file: Path) -> Organisation:
    """The organisation with its groups by canonical name, and every name in it known. Raises ConfigurationError."""
    where = f"{file}: accounts.organisations {organisation.name!r}"
    groups = []
    for group in organisation.groups:
        if (name := canonical_group(group)) is None:
            raise ConfigurationError(
                f"{where}: groups = {group!r}: not a group; write it as urn:geant:example.org:group:ai:workshop"
            )
        groups.append(name)
    for names, known_systems in (
        (organisation.systems, list(configuration.catalogue)),
        (organisation.limits, list(configuration.systems)),
    ):
        for name in names:
            if name not in known_systems:
                raise ConfigurationError(f"{where}: no system {name!r}; there are: {', '.join(known_systems)}")
    for name, partitions in organisation.limits.items():
        known = configuration.systems[SystemName(name)].partitions
        for partition in partitions:
            if partition not in known:
                raise ConfigurationError(
                    f"{where}: limits.{name}.{partition}: not a partition; there are: {', '.join(known)}"
                )
    check_second_factor(organisation.second_factor, where)
    begin, end = organisation.valid_from, organisation.valid_until
    if begin is not None and end is not None and begin >= end:
        raise ConfigurationError(
            f"{where}: valid_until = {end.isoformat()}: must be after valid_from ({begin.isoformat()})"
        )
    return msgspec.structs.replace(organisation, groups=groups)


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
