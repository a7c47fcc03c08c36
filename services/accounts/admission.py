"""Whether a start is allowed, and why not: a pure judgement on what was asked, what exists and what the user may use.

Quotas are not judged here: they need an atomic reservation.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from schemas.access import AccessRecord, OrganisationAccess, SystemAccess
from schemas.base import SystemName, UserName
from schemas.session import HpcPlace, Resources, StartRequested
from services._runtime.clouds import CatalogueEntry, CloudSystem
from services._runtime.systems import Partition, System, reservations_for
from services.accounts.clouds import fits_cloud
from services.accounts.organisations import allows, limit_of
from services.accounts.verdicts import Allowed, Refused, Verdict, choose

DRAINED = "system-drained"
"""The code of what passes when an operator lets starts in again."""


class Rules(msgspec.Struct, frozen=True):
    """What holds now: the systems, who may use what, and which systems take no starts and why."""

    systems: Mapping[SystemName, CatalogueEntry]
    access: Mapping[UserName, AccessRecord]
    drained: Mapping[SystemName, str]


def judge(request: StartRequested, rules: Rules) -> Verdict:
    """The verdict on a start, by the first rule it breaks."""
    system = rules.systems.get(request.system)
    if system is None:
        return Refused("unknown-system", f"There is no system {request.system!r}.", choose("a system", rules.systems))
    record = rules.access.get(request.user)
    if record is None:
        return Refused(
            "unknown-user",
            f"Nothing is known of what {request.user!r} may use.",
            "Ask your support to enter you; log out and in again when they have.",
        )
    if request.vo not in record.vos:
        return Refused("not-in-vo", f"You are not a member of {request.vo!r}.", choose("an organisation", record.vos))
    organisation = next((each for each in record.organisations if each.name == request.vo), None)
    if organisation is not None and (refused := _as_member(request, organisation, system)) is not None:
        return refused
    if isinstance(system, CloudSystem):
        verdict = fits_cloud(request, system)
        return verdict if isinstance(verdict, Refused) else _drained(system, rules.drained) or verdict
    access = next((each for each in record.systems if each.system == request.system), None)
    if access is None:
        return Refused(
            "system-not-allowed",
            f"You have no account on {system.title}.",
            choose("a system", (each.system for each in record.systems)),
        )
    if not isinstance(request.place, HpcPlace):
        return Refused(
            "wrong-kind", f"{system.title} is an HPC system.", "Choose an account, a project and a partition."
        )
    refused = _place(request.place, access, system) or _fits(request, system)
    refused = refused or _fits_organisation(request, request.place, organisation) or _drained(system, rules.drained)
    return refused or Allowed(access.site_identity)


def _drained(system: CatalogueEntry, drained: Mapping[SystemName, str]) -> Refused | None:
    """Judged last: who waits for a system that is drained may use it when it is back."""
    if (reason := drained.get(system.name)) is None:
        return None
    return Refused(
        DRAINED,
        f"{system.title} takes no new starts: {reason}",
        "Choose another system, or try again when it is back.",
    )


def lost_right(request: StartRequested, record: AccessRecord | None, system: CatalogueEntry | None) -> str:
    """Why the user of a session that was admitted may not use its place any more; empty while he may.

    Only rights count here: neither maintenance nor limits, nor the end of a workshop, take a running server away.
    """
    if record is None or system is None:
        return "Nothing is known any more of what you may use."
    if request.vo not in record.vos:
        return f"You are not a member of {request.vo!r} any more."
    if isinstance(system, CloudSystem):
        verdict = fits_cloud(request, system)
        return verdict.message if isinstance(verdict, Refused) else ""
    access = next((each for each in record.systems if each.system == request.system), None)
    if access is None:
        return f"You have no account on {system.title} any more."
    refused = _place(request.place, access, system) if isinstance(request.place, HpcPlace) else None
    return "" if refused is None else refused.message


def _as_member(request: StartRequested, organisation: OrganisationAccess, system: CatalogueEntry) -> Refused | None:
    name = organisation.title or organisation.name
    if not organisation.holds_at(request.at):
        begin, end = organisation.valid_from, organisation.valid_until
        over = end is not None and request.at >= end
        when = f"ended on {end:%Y-%m-%d %H:%M} UTC" if over else f"begins on {begin:%Y-%m-%d %H:%M} UTC"
        return Refused("vo-not-valid", f"{name} {when}.", "Choose another organisation.")
    if not allows(organisation, request.system):
        return Refused(
            "system-not-in-vo",
            f"{name} does not include {system.title}.",
            choose("a system", organisation.systems),
        )
    return None


def _fits_organisation(
    request: StartRequested, place: HpcPlace, organisation: OrganisationAccess | None
) -> Refused | None:
    limit = limit_of(organisation, request.system, place.partition) if organisation is not None else None
    if organisation is None or limit is None:
        return None
    asked = request.resources
    for what, value, most in (
        ("nodes", asked.nodes, limit.max_nodes),
        ("gpus", asked.gpus, limit.max_gpus),
        ("runtime_seconds", asked.runtime_seconds, limit.max_runtime_seconds),
    ):
        if most is not None and value > most:
            name = organisation.title or organisation.name
            return Refused(
                "over-the-limit",
                f"{what} = {value} is more than {name} allows on the partition {place.partition!r}.",
                f"Choose at most {most}, or another organisation.",
            )
    return None


def _place(place: HpcPlace, access: SystemAccess, system: System) -> Refused | None:
    account = next((each for each in access.accounts if each.name == place.account), None)
    if account is None:
        return Refused(
            "account-not-allowed",
            f"You may not use the account {place.account!r} on {system.title}.",
            choose("an account", (each.name for each in access.accounts), place.account),
        )
    project = next((each for each in account.projects if each.name == place.project), None)
    if project is None:
        return Refused(
            "project-not-allowed",
            f"The account {place.account!r} may not use the project {place.project!r} on {system.title}.",
            choose("a project", (each.name for each in account.projects), place.project),
        )
    allowed = [name for name in (project.partitions or system.partitions) if name in system.partitions]
    if place.partition not in allowed:
        return Refused(
            "partition-not-allowed",
            f"The project {place.project!r} may not run on the partition {place.partition!r} of {system.title}.",
            choose("a partition", allowed, place.partition),
        )
    return None


def _fits(request: StartRequested, system: System) -> Refused | None:
    if not isinstance(request.place, HpcPlace):
        return None
    name = request.place.partition
    partition = system.partitions[name]
    asked = request.resources
    for what, value, least, most in _limits(asked, partition):
        if value is not None and not least <= value <= most:
            return Refused(
                "over-the-limit" if value > most else "under-the-limit",
                f"{what} = {value} does not fit the partition {name!r} of {system.title}.",
                f"Choose between {least} and {most}." if least < most else f"It must be {most}.",
            )
    if asked.reservation is not None and asked.reservation not in (there := reservations_for(system, request.place)):
        return Refused(
            "reservation-not-allowed",
            f"The reservation {asked.reservation!r} is not open to you on the partition {name!r}.",
            choose("a reservation", there) if there else "Leave it out.",
        )
    return None


def _limits(asked: Resources, partition: Partition) -> list[tuple[str, int | None, int, int]]:
    memory = partition.memory_bytes_per_node
    return [
        ("runtime_seconds", asked.runtime_seconds, partition.min_runtime_seconds, partition.max_runtime_seconds),
        ("nodes", asked.nodes, 1, partition.max_nodes),
        ("cores", asked.cores, 1, partition.cores_per_node * asked.nodes),
        ("gpus", asked.gpus, 0, partition.gpus_per_node * asked.nodes),
        ("memory_bytes", asked.memory_bytes if memory else None, 1, (memory or 0) * asked.nodes),
    ]
