"""From grants to systems: what a user may use, by the system catalogue's own names. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from schemas.access import AccountAccess, ProjectAccess, SystemAccess
from schemas.base import SystemName
from services._runtime.systems import System
from services.accounts.rights.grant import Grant


def accesses(grants: Iterable[Grant], site_identity: str, systems: Mapping[SystemName, System]) -> list[SystemAccess]:
    """The systems that the grants open, each as account, project, partitions. Grants of unknown resources open none."""
    tree: dict[SystemName, dict[str, dict[str, set[str]]]] = {}
    for grant in grants:
        for name, system in systems.items():
            opened = (
                {*system.grants[grant.resource], *system.open_partitions} if grant.resource in system.grants else ()
            )
            if opened:  # to name no partition would mean all of them
                projects = tree.setdefault(name, {}).setdefault(grant.account, {})
                projects.setdefault(grant.project, set()).update(opened)
    return [
        SystemAccess(system=name, site_identity=site_identity, accounts=_accounts(tree[name], systems[name]))
        for name in systems
        if name in tree
    ]


def _accounts(accounts: Mapping[str, Mapping[str, set[str]]], system: System) -> list[AccountAccess]:
    return [
        AccountAccess(
            name=account,
            projects=[
                ProjectAccess(name=project, partitions=[each for each in system.partitions if each in opened])
                for project, opened in sorted(projects.items())
            ],
        )
        for account, projects in sorted(accounts.items())
    ]


def merged(several: Sequence[Sequence[SystemAccess]]) -> list[SystemAccess]:
    """One access per system from several sources: accounts and projects of all; the first site identity that is set.

    A project without partitions may run on all of them, and stays so.
    """
    by_system: dict[SystemName, SystemAccess] = {}
    for access in (each for source in several for each in source):
        known = by_system.get(access.system)
        by_system[access.system] = access if known is None else _both(known, access)
    return list(by_system.values())


def _both(one: SystemAccess, other: SystemAccess) -> SystemAccess:
    accounts: dict[str, dict[str, list[str] | None]] = {}
    for account in (*one.accounts, *other.accounts):
        projects = accounts.setdefault(account.name, {})
        for project in account.projects:
            known = projects.get(project.name, [])
            everywhere = not project.partitions or known is None
            projects[project.name] = None if everywhere else list(dict.fromkeys([*(known or []), *project.partitions]))
    return SystemAccess(
        system=one.system,
        site_identity=one.site_identity or other.site_identity,
        flavours=list(dict.fromkeys([*one.flavours, *other.flavours])),
        accounts=[
            AccountAccess(
                name=name,
                projects=[ProjectAccess(name=project, partitions=some or []) for project, some in projects.items()],
            )
            for name, projects in accounts.items()
        ],
    )
