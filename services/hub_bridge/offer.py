"""What one user may choose from: the system catalogue cut down to the user's access. Pure; reads nothing."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from schemas.access import AccessRecord, SystemAccess
from schemas.base import SystemName
from services._runtime.systems import Partition, System


class PartitionOffer(msgspec.Struct, frozen=True, kw_only=True):
    """The limits of a partition as the form shows them, runtimes in whole minutes."""

    title: str
    max_nodes: int
    cores_per_node: int
    gpus_per_node: int
    min_runtime_minutes: int
    max_runtime_minutes: int
    default_runtime_minutes: int
    reservations: list[str]


class SystemOffer(msgspec.Struct, frozen=True, kw_only=True):
    """A system, and per account and project the partitions it may run on."""

    title: str
    description: str
    accounts: dict[str, dict[str, list[str]]]
    partitions: dict[str, PartitionOffer]


class Offer(msgspec.Struct, frozen=True, kw_only=True):
    """All a user may choose from. Empty: nothing is known of the user's access."""

    vos: list[str]
    systems: dict[str, SystemOffer]


NOTHING = Offer(vos=[], systems={})


def offer(systems: Mapping[SystemName, System], record: AccessRecord | None) -> Offer:
    """What the user may choose from, by the catalogue and the user's access. Systems without account are left out."""
    if record is None:
        return NOTHING
    offered = {
        access.system: _system(systems[access.system], access) for access in record.systems if access.system in systems
    }
    return Offer(vos=list(record.vos), systems={name: system for name, system in offered.items() if system.accounts})


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
    )


def _partition(name: str, partition: Partition) -> PartitionOffer:
    least = -(-partition.min_runtime_seconds // 60)
    most = max(partition.max_runtime_seconds // 60, least)
    return PartitionOffer(
        title=partition.title or name,
        max_nodes=partition.max_nodes,
        cores_per_node=partition.cores_per_node,
        gpus_per_node=partition.gpus_per_node,
        min_runtime_minutes=least,
        max_runtime_minutes=most,
        default_runtime_minutes=min(max(partition.default_runtime_seconds // 60, least), most),
        reservations=list(partition.reservations),
    )
