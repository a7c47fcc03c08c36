"""Whether a JSON Schema still accepts everything an earlier one promised. Pure; reads no file."""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]

TIGHTER_WHEN_LARGER = ("minLength", "minimum", "exclusiveMinimum", "minItems")
TIGHTER_WHEN_SMALLER = ("maxLength", "maximum", "exclusiveMaximum", "maxItems")


def breaks(published: Schema, current: Schema) -> list[str]:
    """What of the published schema the current one would no longer read, one line each; empty when compatible."""
    return _compare(published, current, published, current, "$", 0)


def _compare(old: Schema, new: Schema, old_root: Schema, new_root: Schema, path: str, depth: int) -> list[str]:
    old, new = _resolved(old, old_root), _resolved(new, new_root)
    if depth > 20:
        return []
    if "anyOf" in old or "anyOf" in new:
        return _compare_unions(old, new, old_root, new_root, path, depth)
    found = []
    if "type" in new and not _types(old) <= _types(new):
        found.append(f"{path}: type narrowed from {sorted(_types(old))} to {sorted(_types(new))}")
    if "enum" in new:
        lost = [value for value in old.get("enum", ["anything"]) if value not in new["enum"]]
        found += [f"{path}: value {value!r} is no longer read" for value in lost]
    for key in TIGHTER_WHEN_LARGER:
        if key in new and new[key] > old.get(key, float("-inf")):
            found.append(f"{path}: {key} raised from {old.get(key)} to {new[key]}")
    for key in TIGHTER_WHEN_SMALLER:
        if key in new and new[key] < old.get(key, float("inf")):
            found.append(f"{path}: {key} lowered from {old.get(key)} to {new[key]}")
    if "pattern" in new and new["pattern"] != old.get("pattern"):
        found.append(f"{path}: pattern changed from {old.get('pattern')!r} to {new['pattern']!r}")
    required = set(new.get("required", [])) - set(old.get("required", []))
    found += [f"{path}.{name}: newly required" for name in sorted(required)]
    for name, property_ in old.get("properties", {}).items():
        if name not in new.get("properties", {}):
            found.append(f"{path}.{name}: removed")
        else:
            inner = new["properties"][name]
            found += _compare(property_, inner, old_root, new_root, f"{path}.{name}", depth + 1)
    for key in ("items", "additionalProperties"):
        if isinstance(old.get(key), dict) and isinstance(new.get(key), dict):
            found += _compare(old[key], new[key], old_root, new_root, f"{path}[]", depth + 1)
    return found


def _compare_unions(old: Schema, new: Schema, old_root: Schema, new_root: Schema, path: str, depth: int) -> list[str]:
    found = []
    choices = new.get("anyOf", [new])
    for choice in old.get("anyOf", [old]):
        reasons = [_compare(choice, each, old_root, new_root, path, depth + 1) for each in choices]
        if all(reasons):
            found.append(min(reasons, key=len)[0])
    return found


def _types(schema: Schema) -> set[str]:
    declared = schema.get("type", "any")
    return set(declared) if isinstance(declared, list) else {declared}


def _resolved(schema: Schema, root: Schema) -> Schema:
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        resolved: Schema = root.get("$defs", {}).get(name, {})
        return resolved
    return schema
