"""The clouds of the catalogue: Kubernetes clusters, what pods may be there and who may have them. Reaches none.

A cloud's file in `systems/` says `kind = "cloud"` and is named after it: `systems/hdf-cloud.toml`.
"""

from __future__ import annotations

import re
import string
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from schemas.base import Port, PositiveInt, Slug, SystemName
from services._runtime.configuration import ConfigurationError, convert, read_toml
from services._runtime.systems import (
    DirectReach,
    Positive,
    SecondFactor,
    SshReach,
    System,
    beside,
    check_networks,
    check_second_factor,
    system_files,
    system_name,
    with_files,
)

Name = Annotated[str, Meta(min_length=1, max_length=64)]
Count = Annotated[int, Meta(ge=0)]
NAMESPACE_FIELDS = ("vo", "user")
_NAMESPACE = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


class KubernetesSite(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="backend", tag="kubernetes"
):
    """How the launcher speaks to a cluster: as a kubeconfig says, or without one as the pod it runs in.

    `namespace` may have `{vo}` and `{user}` in it; the namespaces must exist. A watch that says nothing for
    `silent_seconds` is begun anew. `lost_after_seconds` bounds how long the launcher believes in a pod nobody tells of.
    """

    kubeconfig: str = ""
    context: str = ""
    namespace: Annotated[str, Meta(min_length=1, max_length=63)] = "farlab"
    concurrent_requests: PositiveInt = 8
    timeout_seconds: Positive = 10.0
    silent_seconds: Positive = 150.0
    lost_after_seconds: Positive = 900.0

    @property
    def many_namespaces(self) -> bool:
        """Whether sessions are in namespaces of their users or organisations."""
        return "{" in self.namespace


class PortForwardReach(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="reach", tag="port-forward"
):
    """The hub reaches pods through the API server's port-forward: for remote clusters with no other way in."""

    ports: tuple[Port, Port] = (1, 65_535)
    networks: list[str] = []
    hosts: list[str] = msgspec.field(default_factory=lambda: [r"farlab-[a-z0-9]+\.[a-z0-9-]+\.svc"])


class Mount(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A volume in every pod: its source as Kubernetes words it, such as `{ configMap = { name = "site" } }`."""

    path: Annotated[str, Meta(pattern=r"^/")]
    source: dict[str, Any]
    sub_path: str = ""
    read_only: bool = True


class Pod(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What every pod of a cloud has in common.

    `python` of the image must have JupyterHub's single-user server. Only `reached_from` may connect to it (networks;
    none named: all), and it may connect to everything but `closed_networks`. `patch` is merged into the pod last, as
    `kubectl patch --type strategic` does.
    """

    python: str = "python3"
    port: Annotated[int, Meta(ge=1024, le=65_535)] = 8888
    home: Annotated[str, Meta(pattern=r"^/")] = "/home/jovyan"
    user_id: PositiveInt = 1000
    group_id: PositiveInt = 100
    hub_api_url: str = ""
    server_start_seconds: Positive = 300.0
    grace_seconds: PositiveInt = 30
    environment: dict[str, str] = {}
    mounts: list[Mount] = []
    node_selector: dict[str, str] = {}
    tolerations: list[dict[str, Any]] = []
    affinity: dict[str, Any] = {}
    priority_class: str = ""
    service_account: str = ""
    image_pull_secrets: list[str] = []
    annotations: dict[str, str] = {}
    reached_from: list[str] = []
    closed_networks: list[str] = msgspec.field(default_factory=lambda: ["169.254.0.0/16"])
    patch: dict[str, Any] = {}


class Flavour(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A size of pod, and how long it may live. Memory and storage are in bytes, `cpu` in cores.

    With `storage_bytes`, each user has a volume of that size as home, kept when the pod goes. A server nobody used for
    `idle_seconds` ends, as does one that is `max_age_seconds` old; its user is warned `warning_seconds` before.
    `organisations` may have it; none named: all that may use the cloud.
    """

    title: str = ""
    cpu: Positive = 1.0
    memory_bytes: PositiveInt = 2 * 1024**3
    gpus: Count = 0
    gpu_resource: str = "nvidia.com/gpu"
    storage_bytes: Count = 0
    storage_class: str = ""
    max_age_seconds: PositiveInt = 86_400
    idle_seconds: PositiveInt | None = None
    warning_seconds: PositiveInt = 600
    node_selector: dict[str, str] = {}
    tolerations: list[dict[str, Any]] = []
    organisations: list[Slug] = []


class Image(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An image users may choose, and the organisations that may; none named: all that may use the cloud."""

    image: Annotated[str, Meta(min_length=1, max_length=512)]
    title: str = ""
    organisations: list[Slug] = []


class EmulatedCloud(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """For `farlab up` only: it starts a stand-in for the cluster, whose pods get addresses `127.N.*.*`."""

    pod_network: Annotated[str, Meta(pattern=r"^127\.\d{1,3}$")]


class CloudSystem(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A cloud. `name` is the file's name. Members of `organisations` may use it; `default` has everybody."""

    title: str
    name: SystemName = SystemName("")
    description: str = ""
    kind: Literal["cloud"] = "cloud"
    site: KubernetesSite
    reach: SshReach | DirectReach | PortForwardReach
    pod: Pod = Pod()
    flavours: dict[Name, Flavour]
    images: dict[Name, Image]
    organisations: list[Slug] = msgspec.field(default_factory=lambda: ["default"])
    second_factor: SecondFactor | None = None
    emulated: EmulatedCloud | None = None

    def open_to(self, vo: str) -> bool:
        """Whether members of an organisation may use it as such."""
        return vo in self.organisations

    def flavours_for(self, vo: str) -> dict[str, Flavour]:
        """The flavours members of an organisation may have."""
        return {
            name: each for name, each in self.flavours.items() if not each.organisations or vo in each.organisations
        }

    def images_for(self, vo: str) -> dict[str, Image]:
        """The images members of an organisation may choose."""
        return {name: each for name, each in self.images.items() if not each.organisations or vo in each.organisations}


CatalogueEntry = System | CloudSystem


def load_clouds(folder: Path) -> dict[SystemName, CloudSystem]:
    """The clouds of a folder by name. Raises ConfigurationError for the first thing that is wrong."""
    return {cloud.name: cloud for cloud in map(load_cloud, system_files(folder, "cloud"))}


def load_cloud(file: Path) -> CloudSystem:
    """The cloud in a file. Relative file names in it count from the file's folder. Raises ConfigurationError."""
    name = system_name(file)
    cloud = msgspec.structs.replace(convert(read_toml(file), CloudSystem, file=file), name=name)
    for key, table in (("flavours", cloud.flavours), ("images", cloud.images)):
        if not table:
            raise ConfigurationError(f"{file}: {key} is empty; add at least one [{key}.NAME]")
    for flavour_name, flavour in cloud.flavours.items():
        if flavour.warning_seconds >= flavour.max_age_seconds:
            raise ConfigurationError(
                f"{file}: flavours.{flavour_name}.warning_seconds = {flavour.warning_seconds}: must be less than "
                f"max_age_seconds ({flavour.max_age_seconds})"
            )
    _check_namespace(cloud.site.namespace, file)
    check_networks(cloud.reach.networks, file)
    check_second_factor(cloud.second_factor, file)
    site = msgspec.structs.replace(cloud.site, kubeconfig=beside(file, cloud.site.kubeconfig))
    reach = with_files(cloud.reach, file) if isinstance(cloud.reach, SshReach) else cloud.reach
    return msgspec.structs.replace(cloud, site=site, reach=reach)


def _check_namespace(template: str, file: Path) -> None:
    problem = "write it as farlab, farlab-{vo} or farlab-{user}"
    try:
        named = [field for _, field, _, _ in string.Formatter().parse(template) if field is not None]
    except ValueError as error:
        raise ConfigurationError(f"{file}: site.namespace = {template!r}: {error}; {problem}") from None
    unknown = [field for field in named if field not in NAMESPACE_FIELDS]
    if unknown or not _NAMESPACE.fullmatch(template.format_map(dict.fromkeys(NAMESPACE_FIELDS, "x"))):
        raise ConfigurationError(f"{file}: site.namespace = {template!r}: not a name of a namespace; {problem}")
