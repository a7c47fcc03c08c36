"""What one user may choose from: the system catalogue cut down to the user's access. Pure; reads nothing."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

import msgspec

from schemas.access import AccessRecord, OptionDefaults, OrganisationAccess, PartitionLimit, SystemAccess
from schemas.base import SystemName
from services._runtime.clouds import CloudSystem
from services._runtime.systems import Partition, System
from services.hub_bridge.clouds import CloudOffer, cloud_offers


class PartitionOffer(msgspec.Struct, frozen=True, kw_only=True):
    """The limits of a partition as the form shows them, runtimes in whole minutes."""

    title: str
    max_nodes: int
    cores_per_node: int
    gpus_per_node: int
    max_gpus: int
    min_runtime_minutes: int
    max_runtime_minutes: int
    default_runtime_minutes: int
    reservations: list[str]


class ReservationOffer(msgspec.Struct, frozen=True, kw_only=True):
    """A reservation that one of the user's projects or accounts may use, on partitions; none named: on all."""

    projects: list[str]
    accounts: list[str]
    partitions: list[str]

    def is_for(self, account: str, project: str, partition: str) -> bool:
        """Whether a start there may use it."""
        on_it = not self.partitions or partition in self.partitions
        return on_it and (project in self.projects or account in self.accounts)


class SystemOffer(msgspec.Struct, frozen=True, kw_only=True):
    """A system, and per account and project the partitions it may run on."""

    title: str
    description: str
    accounts: dict[str, dict[str, list[str]]]
    partitions: dict[str, PartitionOffer]
    reservations: dict[str, ReservationOffer] = {}


class OrganisationOffer(msgspec.Struct, frozen=True, kw_only=True):
    """What a user may choose from as a member of one virtual organisation; `defaults` are options, by system."""

    title: str
    systems: dict[str, SystemOffer]
    clouds: dict[str, CloudOffer] = {}
    defaults: dict[str, dict[str, str | int]] = {}


class Offer(msgspec.Struct, frozen=True, kw_only=True):
    """All a user may choose from, by virtual organisation, the first one first. Empty: nothing is open to the user.

    `notices` is what there is to know of systems, by name.
    """

    organisations: dict[str, OrganisationOffer]
    notices: dict[str, str] = {}


NOTHING = Offer(organisations={})


def offer(
    systems: Mapping[SystemName, System],
    record: AccessRecord | None,
    now: datetime,
    clouds: Mapping[SystemName, CloudSystem] | None = None,
) -> Offer:
    """What the user may choose from now, by the catalogue and the user's access. What leads nowhere is left out."""
    if record is None:
        return NOTHING
    offered = {
        access.system: _system(systems[access.system], access) for access in record.systems if access.system in systems
    }
    usable = {name: system for name, system in offered.items() if system.accounts}
    known = {each.name: each for each in record.organisations}
    members = [known.get(name) or OrganisationAccess(name=name) for name in record.vos]
    organisations = {
        each.name: _organisation(each, usable, cloud_offers(clouds or {}, each))
        for each in members
        if each.holds_at(now)
    }
    return Offer(organisations={name: each for name, each in organisations.items() if each.systems or each.clouds})


def _organisation(
    organisation: OrganisationAccess, systems: Mapping[SystemName, SystemOffer], clouds: dict[str, CloudOffer]
) -> OrganisationOffer:
    limits = {(each.system, each.partition): each for each in organisation.limits}
    return OrganisationOffer(
        title=organisation.title or organisation.name,
        systems={
            name: msgspec.structs.replace(
                system,
                partitions={
                    each: _narrowed(partition, limits.get((name, each)))
                    for each, partition in system.partitions.items()
                },
            )
            for name, system in systems.items()
            if not organisation.systems or name in organisation.systems
        },
        clouds=clouds,
        defaults={each.system: _options(each) for each in organisation.defaults},
    )


def _options(defaults: OptionDefaults) -> dict[str, str | int]:
    """Defaults by the names of options; what they leave open is not there."""
    minutes = None if defaults.runtime_seconds is None else max(defaults.runtime_seconds // 60, 1)
    texts = {name: getattr(defaults, name) for name in ("partition", "flavour", "image", "reservation")}
    numbers = {"runtime_minutes": minutes, "nodes": defaults.nodes, "gpus": defaults.gpus}
    return {name: value for name, value in {**texts, **numbers}.items() if value not in ("", None)}


def _narrowed(partition: PartitionOffer, limit: PartitionLimit | None) -> PartitionOffer:
    """The partition as the organisation limits it; never wider than it was, and never without any runtime."""
    if limit is None:
        return partition
    nodes = min(partition.max_nodes, limit.max_nodes or partition.max_nodes)
    gpus = partition.max_gpus if limit.max_gpus is None else min(partition.max_gpus, limit.max_gpus)
    minutes = partition.max_runtime_minutes
    if limit.max_runtime_seconds is not None:
        minutes = max(min(minutes, limit.max_runtime_seconds // 60), partition.min_runtime_minutes)
    return msgspec.structs.replace(
        partition,
        max_nodes=nodes,
        max_gpus=gpus,
        max_runtime_minutes=minutes,
        default_runtime_minutes=min(partition.default_runtime_minutes, minutes),
    )


def _system(system: System, access: SystemAccess) -> SystemOffer:
    accounts: dict[str, dict[str, list[str]]] = {}
    for account in access.accounts:
        projects = {
            project.name: [name for name in (project.partitions or system.partitions) if name in system.partitions]
            for project in account.projects
        }
        usable = {name: partitions for name, partitions in projects.items() if partitions}
        if usable:
            accounts[account.name] = usable
    return SystemOffer(
        title=system.title,
        description=system.description,
        accounts=accounts,
        partitions={name: _partition(name, partition) for name, partition in system.partitions.items()},
        reservations=_reservations(system, accounts),
    )


def _reservations(system: System, accounts: Mapping[str, Mapping[str, list[str]]]) -> dict[str, ReservationOffer]:
    """Those that are for something of the user's, and of them no more than the user's own names."""
    own = {project for projects in accounts.values() for project in projects}
    offers = {
        name: ReservationOffer(
            projects=[each for each in reservation.projects if each in own],
            accounts=[each for each in reservation.accounts if each in accounts],
            partitions=list(reservation.partitions),
        )
        for name, reservation in system.reservations.items()
    }
    return {name: each for name, each in offers.items() if each.projects or each.accounts}


def _partition(name: str, partition: Partition) -> PartitionOffer:
    least = -(-partition.min_runtime_seconds // 60)
    most = max(partition.max_runtime_seconds // 60, least)
    return PartitionOffer(
        title=partition.title or name,
        max_nodes=partition.max_nodes,
        cores_per_node=partition.cores_per_node,
        gpus_per_node=partition.gpus_per_node,
        max_gpus=partition.gpus_per_node * partition.max_nodes,
        min_runtime_minutes=least,
        max_runtime_minutes=most,
        default_runtime_minutes=min(max(partition.default_runtime_seconds // 60, least), most),
        reservations=list(partition.reservations),
    )
