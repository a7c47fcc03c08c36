"""The table `[cloud_launcher]` of `farlab.toml`, and what a cloud's file says that only its launcher can judge."""

from __future__ import annotations

import difflib
import os
import re
import socket
from datetime import UTC, datetime
from types import ModuleType
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from schemas.base import HubName, SessionId, SystemName, UserName
from schemas.session import CloudPlace, Resources, StartRequested
from services._runtime.api_server import check_kubeconfig
from services._runtime.clouds import CloudSystem
from services._runtime.configuration import ConfigurationError
from services._runtime.settings import Configuration
from services.cloud_launcher import manifests
from services.cloud_launcher.words import SERVER

_LIST_OR_DICT = re.compile(r"^(?:list|List)\[(\w+)\]$|^(?:dict|Dict)\[str, (\w+)\]$")
_FREE = "object"


class CloudLauncherSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All of `[cloud_launcher]`. Without `clouds` it serves all; `replica` names this process among its like."""

    clouds: list[str] = []
    replica: str = ""
    reconcile_seconds: Annotated[float, Meta(gt=0)] = 15.0
    lifetime_seconds: Annotated[float, Meta(gt=0)] = 5.0


def launcher_settings(configuration: Configuration) -> CloudLauncherSettings:
    """The table, checked against the catalogue, and every served cloud's pod. Raises ConfigurationError."""
    settings = configuration.section("cloud_launcher", CloudLauncherSettings)
    known = ", ".join(configuration.clouds) or "none"
    for name in settings.clouds:
        if name not in configuration.clouds:
            raise ConfigurationError(
                f"{configuration.file}: cloud_launcher.clouds: no cloud {name!r}; there are: {known}"
            )
    clouds = served(configuration, settings)
    if not clouds:
        raise ConfigurationError(
            f'{configuration.file}: there is no cloud to launch on; put a system with kind = "cloud" into '
            f"{configuration.shared.installation.systems_folder}/, or do not run this service"
        )
    for name, cloud in clouds.items():
        check_pod(cloud, f"{configuration.shared.installation.systems_folder}/{name}.toml")
        check_kubeconfig(cloud.site.kubeconfig)
    return settings


def served(configuration: Configuration, settings: CloudLauncherSettings) -> dict[SystemName, CloudSystem]:
    """The clouds this launcher serves."""
    return {
        name: cloud for name, cloud in configuration.clouds.items() if not settings.clouds or name in settings.clouds
    }


def replica_name(settings: CloudLauncherSettings) -> str:
    """How this process is named as the holder of leases."""
    return settings.replica or f"{socket.gethostname()}-{os.getpid()}"


def check_pod(cloud: CloudSystem, file: str) -> None:
    """Raises ConfigurationError when the operator's patch makes something of a pod that is none, or not ours."""
    for flavour in cloud.flavours:
        whole = manifests.pod(cloud, "farlab", _sample(cloud, flavour))
        if _worded_by_operator(cloud, flavour):
            from kubernetes.aio.client import models  # its types take seconds to load, and most need none of them

            for field, kind in (("metadata", "V1ObjectMeta"), ("spec", "V1PodSpec")):
                at = f"{file}: the pod of flavours.{flavour} with pod.patch: {field}"
                _check_fields(models, whole[field], kind, at)
        before = manifests.pod(_unpatched(cloud), "farlab", _sample(cloud, flavour))
        if any(whole["metadata"].get(key) != before["metadata"][key] for key in ("name", "namespace")) or not (
            before["metadata"]["labels"].items() <= whole["metadata"].get("labels", {}).items()
        ):
            raise ConfigurationError(
                f"{file}: pod.patch.metadata: name, namespace and the labels of farlab must stay; remove them from it"
            )
        if whole["spec"].get("schedulingGates") != before["spec"]["schedulingGates"]:
            raise ConfigurationError(f"{file}: pod.patch.spec.schedulingGates: must stay; remove it from the patch")
        if SERVER not in [each.get("name") for each in whole["spec"]["containers"]]:
            raise ConfigurationError(
                f'{file}: pod.patch.spec.containers: the container "{SERVER}" must stay; name it so in the patch'
            )


def _worded_by_operator(cloud: CloudSystem, flavour: str) -> bool:
    """Whether something of the pod is in Kubernetes' own words, which its operator may have misspelled."""
    rules = cloud.pod
    own = (rules.patch, rules.mounts, rules.affinity, rules.tolerations, cloud.flavours[flavour].tolerations)
    return any(own)


def _unpatched(cloud: CloudSystem) -> CloudSystem:
    return msgspec.structs.replace(cloud, pod=msgspec.structs.replace(cloud.pod, patch={}))


def _sample(cloud: CloudSystem, flavour: str) -> StartRequested:
    """A start as it could come, for the one whose flavour and image it may be."""
    limited = cloud.flavours[flavour].organisations
    vos = [*(limited or cloud.organisations)]
    image = next((name for name, each in cloud.images.items() if not each.organisations), "")
    if not image:
        image, wanted = next((name, each.organisations[0]) for name, each in cloud.images.items())
        vos = [wanted]
    return StartRequested(
        hub=HubName("hub"),
        system=cloud.name,
        session=SessionId("01" + "0" * 24),
        user=UserName("user"),
        vo=vos[0] if vos else "default",
        place=CloudPlace(flavour=flavour, image=image),
        resources=Resources(runtime_seconds=3600),
        deadline=datetime(2030, 1, 1, tzinfo=UTC),
    )


def _check_fields(models: ModuleType, value: Any, kind: str, at: str) -> None:
    """Raises ConfigurationError for the first field that Kubernetes' own types do not have, or of another type."""
    if found := _LIST_OR_DICT.match(kind):
        inner = found[1] or found[2]
        if not isinstance(value, list if found[1] else dict):
            raise ConfigurationError(f"{at} = {value!r}: must be a {'list' if found[1] else 'table'}")
        entries = enumerate(value) if isinstance(value, list) else value.items()
        for name, each in entries:
            _check_fields(models, each, inner, f"{at}[{name}]" if isinstance(name, int) else f"{at}.{name}")
        return
    if kind in _PLAIN:
        if not isinstance(value, _PLAIN[kind]) or (isinstance(value, bool) and kind != "bool"):
            raise ConfigurationError(f"{at} = {value!r}: must be {_WORDS[kind]}")
        return
    model = getattr(models, kind, None)
    if model is None:
        return
    if not isinstance(value, dict):
        raise ConfigurationError(f"{at} = {value!r}: must be a table")
    fields = {wire: model.openapi_types[name] for name, wire in model.attribute_map.items()}
    for name, each in value.items():
        if name not in fields:
            close = difflib.get_close_matches(name, list(fields), 1)
            hint = f'did you mean "{close[0]}"?' if close else "remove it"
            raise ConfigurationError(f"{at}.{name} is not a field of Kubernetes; {hint}")
        _check_fields(models, each, fields[name], f"{at}.{name}")


_PLAIN: dict[str, type | tuple[type, ...]] = {"str": str, "int": int, "bool": bool, "float": (int, float)}
_WORDS = {"str": "text", "int": "a whole number", "bool": "true or false", "float": "a number"}
