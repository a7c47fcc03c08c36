"""Strategic merge of an operator's patch into a manifest, as `kubectl patch --type strategic` does it. Pure.

Lists whose entries have a merge key are joined by it, other lists are replaced; null removes a field, `$patch: delete`
an entry, `$patch: replace` what was there (Kubernetes' documentation of strategic merge).
"""

from __future__ import annotations

from typing import Any

MERGE_KEYS = {
    "containers": "name",
    "initContainers": "name",
    "ephemeralContainers": "name",
    "volumes": "name",
    "env": "name",
    "imagePullSecrets": "name",
    "resourceClaims": "name",
    "schedulingGates": "name",
    "volumeMounts": "mountPath",
    "volumeDevices": "devicePath",
    "ports": "containerPort",
    "hostAliases": "ip",
    "topologySpreadConstraints": "topologyKey",
    "ownerReferences": "uid",
}
"""`patchMergeKey` of a pod's lists; tolerations, arguments and the like have none."""

_HOW = "$patch"


def merged(target: Any, patch: Any) -> Any:
    """The target with the patch merged into it. Neither is changed."""
    if not isinstance(patch, dict):
        return patch
    if not isinstance(target, dict) or patch.get(_HOW) == "replace":
        return {key: merged(None, value) for key, value in patch.items() if key != _HOW and value is not None}
    result = dict(target)
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, list) and key in MERGE_KEYS:
            result[key] = _joined(result.get(key) or [], value, MERGE_KEYS[key])
        else:
            result[key] = merged(result.get(key), value)
    return result


def _joined(target: list[Any], patch: list[Any], key: str) -> list[Any]:
    if any(isinstance(each, dict) and each == {_HOW: "replace"} for each in patch):
        return [merged(None, each) for each in patch if each != {_HOW: "replace"}]
    joined = {_name(each, key): each for each in target}
    for each in patch:
        name = _name(each, key)
        if isinstance(each, dict) and each.get(_HOW) == "delete":
            joined.pop(name, None)
        else:
            joined[name] = merged(joined.get(name), each)
    return list(joined.values())


def _name(entry: Any, key: str) -> str:
    return str(entry.get(key)) if isinstance(entry, dict) else str(entry)
