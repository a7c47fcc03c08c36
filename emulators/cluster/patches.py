"""The three forms of PATCH: JSON (RFC 6902), merge (RFC 7386), strategic merge. Changes no stored object."""

from __future__ import annotations

import copy
from typing import Any

from emulators.cluster.kinds import Object
from emulators.cluster.refusals import RefusedError

JSON, MERGE, STRATEGIC = (f"application/{form}+json" for form in ("json-patch", "merge-patch", "strategic-merge-patch"))
MERGE_KEYS = {
    "containers": "name",
    "volumes": "name",
    "env": "name",
    "imagePullSecrets": "name",
    "volumeMounts": "mountPath",
    "ownerReferences": "uid",
    "conditions": "type",
    "hostAliases": "ip",
}
"""Lists that strategic merge joins by a key, from the `patchMergeKey` of the API's types; others are replaced."""


def patched(found: Object, form: str, patch: Any) -> Any:
    """The object with the patch applied. Raises RefusedError."""
    if form == JSON:
        return _json(copy.deepcopy(found), patch)
    if not isinstance(patch, dict):
        raise RefusedError(400, "a patch must be a JSON object")
    if form == MERGE:
        return _merge(copy.deepcopy(found), patch)
    if form == STRATEGIC:
        return _strategic(copy.deepcopy(found), patch)
    raise RefusedError(415, f"the body of the request was in an unknown format - accepted media types include: {JSON}")


def _merge(target: Any, patch: Any) -> Any:
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    target = target if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            target.pop(key, None)
        else:
            target[key] = _merge(target.get(key), value)
    return target


def _strategic(target: Any, patch: Any) -> Any:
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    if patch.get("$patch") == "replace":
        return {key: value for key, value in patch.items() if key != "$patch"}
    target = target if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            target.pop(key, None)
        elif isinstance(value, list) and key == "finalizers":
            target[key] = list(dict.fromkeys([*(target.get(key) or []), *value]))
        elif isinstance(value, list) and (merge_key := _merge_key(key, value)):
            target[key] = _merged_list(target.get(key) or [], value, merge_key)
        else:
            target[key] = _strategic(target.get(key), value)
    return target


def _merge_key(key: str, value: list[Any]) -> str:
    if key == "ports":
        return "containerPort" if any("containerPort" in each for each in value) else "port"
    return MERGE_KEYS.get(key, "")


def _merged_list(found: list[Any], patch: list[Any], key: str) -> list[Any]:
    merged = {each[key]: each for each in found}
    for each in patch:
        if key not in each:
            raise RefusedError(400, f"map: {each} does not contain declared merge key: {key}")
        if each.get("$patch") == "delete":
            merged.pop(each[key], None)
        else:
            merged[each[key]] = _strategic(merged.get(each[key]), each)
    return list(merged.values())


def _json(target: Any, patch: Any) -> Any:
    if not isinstance(patch, list):
        raise RefusedError(400, "a JSON patch must be a list of operations")
    document = {"": target}
    try:
        for step in patch:
            match step["op"]:
                case "add" | "replace":
                    _put(document, step["path"], copy.deepcopy(step["value"]), replace=step["op"] == "replace")
                case "remove":
                    _take(document, step["path"])
                case "copy":
                    _put(document, step["path"], copy.deepcopy(_at(document, step["from"])))
                case "move":
                    _put(document, step["path"], _take(document, step["from"]))
                case "test":
                    if _at(document, step["path"]) != step["value"]:
                        raise RefusedError(422, f"testing value {step['path']} failed")
                case unknown:
                    raise RefusedError(400, f"unexpected kind: {unknown}")
    except (KeyError, IndexError, ValueError, TypeError) as error:
        raise RefusedError(422, f"the server rejected our request due to an error in our request: {error!r}") from None
    return document[""]


def _parts(path: str) -> list[str]:
    return [part.replace("~1", "/").replace("~0", "~") for part in path.split("/")]


def _at(document: Any, path: str) -> Any:
    for part in _parts(path):
        document = document[int(part)] if isinstance(document, list) else document[part]
    return document


def _parent(document: Any, path: str) -> tuple[Any, str]:
    *above, last = _parts(path)
    for part in above:
        document = document[int(part)] if isinstance(document, list) else document[part]
    return document, last


def _put(document: Any, path: str, value: Any, *, replace: bool = False) -> None:
    parent, last = _parent(document, path)
    if not isinstance(parent, list):
        if replace and last not in parent:
            raise KeyError(path)
        parent[last] = value
    elif replace:
        parent[int(last)] = value
    else:
        parent.insert(len(parent) if last == "-" else int(last), value)


def _take(document: Any, path: str) -> Any:
    parent, last = _parent(document, path)
    return parent.pop(int(last)) if isinstance(parent, list) else parent.pop(last)
