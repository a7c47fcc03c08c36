"""The system catalogue: one file a system, with the sections each service reads. Starts and reaches nothing.

A system is a place where servers run. Its file in `systems/` is named after it: `systems/juwels.toml`.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from schemas.base import Port, PositiveInt, Slug, SystemName
from schemas.session import HpcPlace, Place, Resources
from services._runtime.configuration import ConfigurationError, convert, read_toml

Positive = Annotated[float, Meta(gt=0)]


class Partition(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A partition and what one start may ask of it. Runtimes are in seconds, memory in bytes."""

    title: str = ""
    max_nodes: PositiveInt = 1
    cores_per_node: PositiveInt = 1
    gpus_per_node: Annotated[int, Meta(ge=0)] = 0
    memory_bytes_per_node: PositiveInt | None = None
    min_runtime_seconds: PositiveInt = 60
    max_runtime_seconds: PositiveInt = 86_400
    default_runtime_seconds: PositiveInt = 3_600
    reservations: list[str] = []


class Reservation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A reservation of the scheduler: for whole names of projects or accounts, on partitions; none named: on all."""

    projects: list[str] = []
    accounts: list[str] = []
    partitions: list[str] = []


class UnicoreSite(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="backend", tag="unicore"
):
    """How the launcher speaks to a UNICORE site.

    It acts for users by trusted delegation: a JWT of `issuer_dn`, signed with the key in `delegation_key_file`,
    which the site's operator trusts. With `credentials = "user-token"` a job is made with an access token of its
    user, for this `audience` where the provider tells audiences apart; delegation then only watches and ends it.
    """

    url: Annotated[str, Meta(pattern=r"^https?://.+/rest/core$")]
    issuer_dn: str
    delegation_key_file: str
    credentials: Literal["delegation", "user-token"] = "delegation"
    audience: Annotated[str, Meta(max_length=1024)] = ""
    ca_file: str = ""
    requests_per_second: Positive = 20.0
    concurrent_requests: PositiveInt = 8
    timeout_seconds: Positive = 10.0
    poll_seconds: Positive = 2.0
    longest_poll_seconds: Positive = 60.0
    notifications_url: str = ""
    lost_after_seconds: Positive = 900.0


class SlurmRest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The site's slurmrestd, asked over HTTP in place of Slurm's commands on the login nodes.

    `jwt_key_file` is the key the site's Slurm signs tokens with (`jwt_hs256.key`): who has it is every user there.
    """

    url: Annotated[str, Meta(pattern=r"^https?://[^\s/@?#]+/?$")]
    jwt_key_file: str
    ca_file: str = ""


class SlurmSite(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="backend", tag="slurm"
):
    """How the launcher speaks to a Slurm site: by a forced command on login nodes, signed in as the user.

    `query_account` asks for the jobs of everybody; where the site hides them from each other, it must see them all.
    `qos` names the quality of service of a partition's jobs, where it is not the site's default. With `rest`, jobs are
    made, followed and ended over HTTP, and the forced command moves files only.
    """

    login_nodes: Annotated[list[Annotated[str, Meta(pattern=r"^[^:\s]+:\d{1,5}$")]], Meta(min_length=1)]
    key_file: str
    known_hosts_file: str
    query_account: Annotated[str, Meta(pattern=r"^[a-z_][a-z0-9_.-]{0,31}$")]
    qos: dict[str, Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]] = {}
    rest: SlurmRest | None = None
    requests_per_second: Positive = 20.0
    concurrent_requests: PositiveInt = 8
    connect_seconds: Positive = 5.0
    timeout_seconds: Positive = 40.0
    poll_seconds: Positive = 2.0
    longest_poll_seconds: Positive = 60.0
    lost_after_seconds: Positive = 900.0


class Job(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What runs inside the job, as the system's operator words it."""

    python: str = "python3"
    prologue: list[str] = []
    node_address: str = "$(hostname -f)"
    ports: tuple[Port, Port] = (49_152, 65_535)
    hub_api_url: str = ""
    server_start_seconds: Positive = 300.0


class RemoteForward(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where jobs find the hub on the login node, which forwards to `hub_host:hub_port`, when they cannot reach it."""

    listen_host: str
    listen_port: Port
    hub_host: str
    hub_port: Port


class DirectReach(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="reach", tag="direct"
):
    """The hub reaches compute nodes itself."""

    networks: list[str]
    ports: tuple[Port, Port] = (1024, 65_535)
    hosts: list[str] = []


class SshReach(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="reach", tag="ssh"):
    """The hub reaches compute nodes through a login node by SSH. Targets outside `networks` are refused."""

    login_nodes: list[Annotated[str, Meta(pattern=r"^[^:\s]+:\d{1,5}$")]]
    user: str
    key_file: str
    known_hosts_file: str
    networks: list[str]
    ports: tuple[Port, Port] = (1024, 65_535)
    hosts: list[str] = []
    connect_seconds: Positive = 5.0
    keepalive_seconds: Positive = 10.0
    remote_forward: RemoteForward | None = None


class UnicoreReach(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="reach", tag="unicore"
):
    """The hub reaches servers through the site's UNICORE/X, which forwards to ports of jobs."""

    networks: list[str]
    ports: tuple[Port, Port] = (1024, 65_535)
    hosts: list[str] = []


class SecondFactor(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a sign-in must be for a start: one of these levels (`acr`), or with one of these methods (`amr`).

    `max_age_seconds` is how long ago the user may have proved it; without it, any time in this sign-in will do.
    """

    levels: list[Annotated[str, Meta(pattern=r"^[\x21\x23-\x5B\x5D-\x7E]{1,255}$")]] = []
    methods: list[Annotated[str, Meta(min_length=1, max_length=64)]] = []
    max_age_seconds: PositiveInt | None = None


class Emulated(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """For `farlab up` only: it starts a stand-in for the site and fills in the addresses. Not for production."""

    login_node: str
    compute_nodes: list[str]
    queue_seconds: float = 1.0


class System(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An HPC system. `name` is the file's name.

    `grants` says which partitions a right opens, by the name the identity provider has for it, such as JuDoor's
    `juwels_booster`; `open_partitions` are open to every project on it. A partition's `reservations` are open to
    everybody on it, those of the system to the projects and accounts they name.
    """

    title: str
    name: SystemName = SystemName("")
    description: str = ""
    kind: Literal["hpc"] = "hpc"
    site: UnicoreSite | SlurmSite
    reach: SshReach | DirectReach | UnicoreReach
    job: Job = Job()
    partitions: dict[str, Partition]
    reservations: dict[str, Reservation] = {}
    second_factor: SecondFactor | None = None
    grants: dict[str, list[str]] = {}
    open_partitions: list[str] = []
    emulated: Emulated | None = None


def load_systems(folder: Path) -> dict[SystemName, System]:
    """The HPC systems of a folder by name. Raises ConfigurationError for the first thing that is wrong."""
    return {system.name: system for system in map(load_system, system_files(folder, "hpc"))}


def system_files(folder: Path, kind: str) -> list[Path]:
    """The files of a folder that describe systems of one kind. Raises ConfigurationError where there is no file."""
    files = sorted(folder.glob("*.toml"))
    if not files:
        raise ConfigurationError(f"{folder}: no system is configured; put one file a system there, such as juwels.toml")
    return [file for file in files if (read_toml(file).get("kind") == "cloud") == (kind == "cloud")]


def system_name(file: Path) -> SystemName:
    """The name of the system that a file describes. Raises ConfigurationError when it cannot be one."""
    try:
        return SystemName(msgspec.convert(file.stem, Slug))
    except msgspec.ValidationError:
        raise ConfigurationError(
            f"{file}: a system's file is named after it, in lower-case letters, digits and dashes; rename it"
        ) from None


def load_system(file: Path) -> System:
    """The system in a file. Relative file names in it count from the file's folder."""
    name = system_name(file)
    system = msgspec.structs.replace(convert(read_toml(file), System, file=file), name=name)
    _check_partitions(system, file)
    _check_grants(system, file)
    _check_reservations(system, file)
    _check_slurm(system, file)
    check_networks(system.reach.networks, file)
    if isinstance(system.reach, UnicoreReach) and not isinstance(system.site, UnicoreSite):
        raise ConfigurationError(f'{file}: reach = "unicore" needs a UNICORE site; take reach = "ssh" or "direct"')
    low, high = system.job.ports
    if low > high:
        raise ConfigurationError(f"{file}: job.ports = [{low}, {high}]: the first must not be above the second")
    check_second_factor(system.second_factor, file)
    site = _site_with_files(system.site, file)
    reach = with_files(system.reach, file) if isinstance(system.reach, SshReach) else system.reach
    return msgspec.structs.replace(system, site=site, reach=reach)


def reservations_for(system: System, place: HpcPlace) -> list[str]:
    """The reservations that a start may use there."""
    partition = system.partitions.get(place.partition)
    named = (
        name
        for name, each in system.reservations.items()
        if (not each.partitions or place.partition in each.partitions)
        and (place.project in each.projects or place.account in each.accounts)
    )
    return [*(partition.reservations if partition is not None else []), *named]


def cores_of(system: System | None, place: Place, resources: Resources) -> int:
    """How many cores a start takes: whole nodes where it asks for none in particular."""
    if resources.cores is not None:
        return resources.cores
    partition = system.partitions.get(place.partition) if system is not None and isinstance(place, HpcPlace) else None
    return resources.nodes * (partition.cores_per_node if partition is not None else 1)


def with_files(reach: SshReach, file: Path) -> SshReach:
    """The reach with its key files by their full names."""
    return msgspec.structs.replace(
        reach, key_file=beside(file, reach.key_file), known_hosts_file=beside(file, reach.known_hosts_file)
    )


def _site_with_files(site: UnicoreSite | SlurmSite, file: Path) -> UnicoreSite | SlurmSite:
    if isinstance(site, SlurmSite):
        rest = site.rest and msgspec.structs.replace(
            site.rest, jwt_key_file=beside(file, site.rest.jwt_key_file), ca_file=beside(file, site.rest.ca_file)
        )
        return msgspec.structs.replace(
            site, key_file=beside(file, site.key_file), known_hosts_file=beside(file, site.known_hosts_file), rest=rest
        )
    return msgspec.structs.replace(
        site, delegation_key_file=beside(file, site.delegation_key_file), ca_file=beside(file, site.ca_file)
    )


def beside(file: Path, name: str) -> str:
    """A file named in another one, by its full name; empty stays empty."""
    return str(file.parent / name) if name else ""


def _check_partitions(system: System, file: Path) -> None:
    if not system.partitions:
        raise ConfigurationError(f"{file}: partitions is empty; add at least one [partitions.NAME]")
    for name, partition in system.partitions.items():
        least, most = partition.min_runtime_seconds, partition.max_runtime_seconds
        if not least <= partition.default_runtime_seconds <= most:
            raise ConfigurationError(
                f"{file}: partitions.{name}.default_runtime_seconds = {partition.default_runtime_seconds}: "
                f"must lie between min_runtime_seconds ({least}) and max_runtime_seconds ({most})"
            )


def check_second_factor(required: SecondFactor | None, where: Path | str) -> None:
    """Raises ConfigurationError when a second factor is asked for that nobody could have."""
    if required is not None and not (required.levels or required.methods):
        raise ConfigurationError(
            f"{where}: second_factor names no levels and no methods; name what your provider's acr or amr says, "
            'such as methods = ["mfa"]'
        )


def _check_grants(system: System, file: Path) -> None:
    for key, names in [("open_partitions", system.open_partitions), *_keyed(system.grants)]:
        for name in names:
            if name not in system.partitions:
                raise ConfigurationError(
                    f"{file}: {key} = {name!r}: not a partition; there are: {', '.join(system.partitions)}"
                )


def _check_reservations(system: System, file: Path) -> None:
    for name, reservation in system.reservations.items():
        if not (reservation.projects or reservation.accounts):
            raise ConfigurationError(
                f"{file}: reservations.{name} is for nobody; name projects or accounts, or list it in a partition's "
                "reservations to open it to everybody there"
            )
        for partition in reservation.partitions:
            if partition not in system.partitions:
                raise ConfigurationError(
                    f"{file}: reservations.{name}.partitions = {partition!r}: not a partition; there are: "
                    f"{', '.join(system.partitions)}"
                )


def _check_slurm(system: System, file: Path) -> None:
    site = system.site
    if not isinstance(site, SlurmSite):
        return
    for name in site.qos:
        if name not in system.partitions:
            raise ConfigurationError(
                f"{file}: site.qos.{name}: not a partition; there are: {', '.join(system.partitions)}"
            )
    if site.rest is not None:
        url = urlsplit(site.rest.url)
        if url.scheme == "http" and url.hostname not in ("127.0.0.1", "::1", "localhost"):
            raise ConfigurationError(
                f"{file}: site.rest.url = {site.rest.url!r}: tokens would pass in the clear; put a proxy with TLS in "
                "front of slurmrestd and write https://, or http://127.0.0.1:PORT where it is on this machine"
            )


def _keyed(grants: dict[str, list[str]]) -> list[tuple[str, list[str]]]:
    return [(f"grants.{resource}", names) for resource, names in grants.items()]


def check_networks(networks: Sequence[str], file: Path) -> None:
    """Raises ConfigurationError for the first that is no network."""
    for network in networks:
        try:
            ipaddress.ip_network(network)
        except ValueError as error:
            raise ConfigurationError(
                f"{file}: reach.networks = {network!r}: {error}; write it as 10.11.0.0/16"
            ) from None
