"""What makes an object invalid (422), as far as launchers come across it. Looks at no other object."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from emulators.cluster.kinds import Kind, Object
from emulators.cluster.quantities import quantity
from emulators.cluster.refusals import invalid

Cause = tuple[str, str, str]
LABEL = re.compile(r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")
SERVICE = re.compile(r"^[a-z]([-a-z0-9]{0,61}[a-z0-9])?$")
SUBDOMAIN = re.compile(r"^(?=.{1,253}$)[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$")
LABEL_VALUE = re.compile(r"^(([A-Za-z0-9][-A-Za-z0-9_.]{0,61})?[A-Za-z0-9])?$")
LABEL_KEY = re.compile(r"^([a-z0-9][-a-z0-9.]{0,252}/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$")
DATA_KEY = re.compile(r"^[-._a-zA-Z0-9]{1,253}$")
NAMES = {"services": SERVICE, "namespaces": LABEL}
MUTABLE_IN_POD = (
    "schedulingGates",
    "activeDeadlineSeconds",
    "tolerations",
    "terminationGracePeriodSeconds",
    "nodeName",
)
SUBDOMAIN_RULE = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.'"


def check(kind: Kind, found: Object, before: Object | None = None) -> None:
    """Raises RefusedError (422) with every cause."""
    causes = _metadata(kind, found)
    if (check_spec := SPECS.get(kind.plural)) is not None:
        causes += check_spec(found)
    if before is not None:
        causes += _immutable(kind, found, before)
    if causes:
        raise invalid(kind.kind, found["metadata"].get("name", ""), causes)


def _required(field: str, told: str = "Required value") -> Cause:
    return field, "FieldValueRequired", told


def _bad(field: str, value: object, why: str) -> Cause:
    return field, "FieldValueInvalid", f'Invalid value: "{value}": {why}'


def _metadata(kind: Kind, found: Object) -> list[Cause]:
    metadata = found["metadata"]
    name = metadata.get("name", "")
    causes: list[Cause] = []
    if not name:
        causes.append(_required("metadata.name", "Required value: name or generateName is required"))
    elif not NAMES.get(kind.plural, SUBDOMAIN).match(name):
        causes.append(_bad("metadata.name", name, SUBDOMAIN_RULE))
    for key, value in (metadata.get("labels") or {}).items():
        if not LABEL_KEY.match(key):
            causes.append(_bad("metadata.labels", key, "name part must consist of alphanumeric characters"))
        if not isinstance(value, str) or not LABEL_VALUE.match(value):
            causes.append(
                _bad("metadata.labels", value, "a valid label must be an empty string or at most 63 characters")
            )
    for number, owner in enumerate(metadata.get("ownerReferences") or []):
        causes += [
            _required(f"metadata.ownerReferences[{number}].{field}", "Required value: must not be empty")
            for field in ("apiVersion", "kind", "name", "uid")
            if not owner.get(field)
        ]
    return causes


def _pod(found: Object) -> list[Cause]:
    spec = found.get("spec") or {}
    causes: list[Cause] = []
    volumes = [volume.get("name", "") for volume in spec.get("volumes") or []]
    causes += [
        (f"spec.volumes[{number}].name", "FieldValueDuplicate", f'Duplicate value: "{name}"')
        for number, name in enumerate(volumes)
        if name in volumes[:number]
    ]
    if not spec.get("containers"):
        causes.append(_required("spec.containers"))
    if spec.get("initContainers"):
        causes.append(("spec.initContainers", "FieldValueForbidden", "Forbidden: this emulator runs none"))
    if (policy := spec.get("restartPolicy", "Always")) not in ("Always", "OnFailure", "Never"):
        causes.append(("spec.restartPolicy", "FieldValueNotSupported", f'Unsupported value: "{policy}"'))
    names: list[str] = []
    for number, container in enumerate(spec.get("containers") or []):
        at = f"spec.containers[{number}]"
        name = container.get("name", "")
        if not name:
            causes.append(_required(f"{at}.name"))
        elif not LABEL.match(name):
            causes.append(_bad(f"{at}.name", name, "a lowercase RFC 1123 label must consist of lower case characters"))
        elif name in names:
            causes.append((f"{at}.name", "FieldValueDuplicate", f'Duplicate value: "{name}"'))
        names.append(name)
        if not container.get("image"):
            causes.append(_required(f"{at}.image"))
        causes += _resources(f"{at}.resources", container.get("resources") or {})
        for mount, each in enumerate(container.get("volumeMounts") or []):
            if each.get("name") not in volumes:
                told = f'Not found: "{each.get("name")}"'
                causes.append((f"{at}.volumeMounts[{mount}].name", "FieldValueNotFound", told))
    return causes


def _resources(at: str, resources: dict[str, Any]) -> list[Cause]:
    causes: list[Cause] = []
    numbers: dict[str, dict[str, Any]] = {"limits": {}, "requests": {}}
    for which, values in numbers.items():
        for name, value in (resources.get(which) or {}).items():
            try:
                values[name] = quantity(value)
            except ValueError as error:
                causes.append(_bad(f"{at}.{which}[{name}]", value, str(error)))
    for name, value in numbers["requests"].items():
        if name in numbers["limits"] and value > numbers["limits"][name]:
            why = f"must be less than or equal to {name} limit"
            causes.append(_bad(f"{at}.requests", resources["requests"][name], why))
    return causes


def _service(found: Object) -> list[Cause]:
    spec = found.get("spec") or {}
    if not spec.get("ports") and spec.get("clusterIP") != "None":
        return [_required("spec.ports")]
    return [
        _bad(f"spec.ports[{number}].port", each.get("port"), "must be between 1 and 65535, inclusive")
        for number, each in enumerate(spec.get("ports") or [])
        if not (isinstance(each.get("port"), int) and 0 < each["port"] < 65_536)
    ]


def _claim(found: Object) -> list[Cause]:
    spec = found.get("spec") or {}
    causes = (
        [] if spec.get("accessModes") else [_required("spec.accessModes", "Required value: at least 1 is required")]
    )
    wanted = ((spec.get("resources") or {}).get("requests") or {}).get("storage")
    if wanted is None:
        return [*causes, _required("spec.resources[storage]")]
    try:
        quantity(wanted)
    except ValueError as error:
        causes.append(_bad("spec.resources.requests[storage]", wanted, str(error)))
    return causes


def _data(found: Object) -> list[Cause]:
    keys = {*(found.get("data") or {}), *(found.get("stringData") or {})}
    return [
        _bad(f"data[{key}]", key, "a valid config key must consist of alphanumeric characters, '-', '_' or '.'")
        for key in keys
        if not DATA_KEY.match(key)
    ]


def _policy(found: Object) -> list[Cause]:
    return [] if "podSelector" in (found.get("spec") or {}) else [_required("spec.podSelector")]


SPECS: dict[str, Callable[[Object], list[Cause]]] = {
    "pods": _pod,
    "services": _service,
    "persistentvolumeclaims": _claim,
    "secrets": _data,
    "configmaps": _data,
    "networkpolicies": _policy,
}


def _immutable(kind: Kind, found: Object, before: Object) -> list[Cause]:
    if kind.plural == "pods" and not _gates(found) <= _gates(before):
        return [("spec.schedulingGates", "FieldValueForbidden", "Forbidden: only deletion is allowed")]
    if kind.plural == "pods" and _fixed(found) != _fixed(before):
        told = "Forbidden: pod updates may not change fields other than `spec.containers[*].image`, ..."
        return [("spec", "FieldValueForbidden", told)]
    if before.get("immutable") and any(found.get(key) != before.get(key) for key in ("data", "immutable")):
        return [("data", "FieldValueForbidden", "Forbidden: field is immutable when `immutable` is set")]
    if kind.plural == "services" and found["spec"].get("clusterIP") != before["spec"].get("clusterIP"):
        return [_bad("spec.clusterIP", found["spec"].get("clusterIP"), "field is immutable")]
    return []


def _gates(pod: Object) -> set[str]:
    return {each["name"] for each in pod["spec"].get("schedulingGates") or []}


def _fixed(pod: Object) -> Object:
    spec = {key: value for key, value in pod["spec"].items() if key not in MUTABLE_IN_POD}
    return {**spec, "containers": [{**each, "image": ""} for each in spec["containers"]]}
