"""Whether a JSON Schema still accepts everything an earlier one promised. Pure; reads no file and trusts no keyword.

Knows the keywords msgspec writes; a change of any other counts as breaking, so that nothing passes unread.
"""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]

RAISED = ("minLength", "minimum", "exclusiveMinimum", "minItems", "minProperties")
"""Bounds that refuse more when they grow."""
LOWERED = ("maxLength", "maximum", "exclusiveMaximum", "maxItems", "maxProperties")
"""Bounds that refuse more when they shrink."""
FIXED = ("pattern", "format", "multipleOf", "uniqueItems", "contentEncoding")
"""Conditions that may only stay or go: whether one pattern contains another is not decided here."""
NESTED = ("items", "additionalProperties", "propertyNames")
"""Schemas of what a field holds. Absent means anything."""
SAID = ("title", "description", "examples", "deprecated", "discriminator", "$schema", "$id", "$defs", "$comment")
"""What explains a schema without changing what it accepts."""
COMPARED = {*RAISED, *LOWERED, *FIXED, *NESTED, *SAID, "type", "enum", "const", "anyOf", "required", "properties"}
JSON_TYPES = {type(None): "null", bool: "boolean", int: "integer", float: "number", str: "string"}


def breaks(published: Schema, current: Schema) -> list[str]:
    """What of the published schema the current one would no longer read, one line each; empty when compatible."""
    return _Comparison(published, current).breaks(published, current, "$")


class _Comparison:
    """One comparison of two documents; remembers the pairs of definitions it is inside of, for recursive schemas."""

    def __init__(self, old_root: Schema, new_root: Schema) -> None:
        self._old_root = old_root
        self._new_root = new_root
        self._inside: set[tuple[str, str]] = set()

    def breaks(self, old: Any, new: Any, path: str) -> list[str]:
        """What of `old` is refused by `new`, both at `path`."""
        if new is True or old is False:
            return []
        if new is False:
            return [f"{path}: nothing is read any more"]
        old = {} if old is True else old
        pair = (old.get("$ref", ""), new.get("$ref", ""))
        if all(pair):
            if pair in self._inside:
                return []
            self._inside.add(pair)
        try:
            return self._resolved(_target(old, self._old_root), _target(new, self._new_root), path)
        finally:
            self._inside.discard(pair)

    def _resolved(self, old: Schema, new: Schema, path: str) -> list[str]:
        found = _default(old, new, path)
        if "anyOf" in old or "anyOf" in new:
            return found + self._unions(old, new, path)
        found += _types(old, new, path) + _values(old, new, path) + _bounds(old, new, path)
        found += self._fields(old, new, path)
        for key in NESTED:
            found += self.breaks(old.get(key, True), new.get(key, True), f"{path}[{key}]")
        return found

    def _unions(self, old: Schema, new: Schema, path: str) -> list[str]:
        found = []
        for choice in _choices(old):
            reasons = [self.breaks(choice, each, path) for each in _choices(new)]
            if all(reasons):
                closest: list[str] = min(reasons, key=len)
                found += closest
        return found

    def _fields(self, old: Schema, new: Schema, path: str) -> list[str]:
        required = set(new.get("required", [])) - set(old.get("required", []))
        found = [f"{path}.{name}: newly required" for name in sorted(required)]
        fields = new.get("properties", {})
        for name, field in old.get("properties", {}).items():
            if name in fields:
                found += self.breaks(field, fields[name], f"{path}.{name}")
            else:
                found.append(f"{path}.{name}: removed")
        return found


def _target(schema: Schema, root: Schema) -> Schema:
    while "$ref" in schema:
        target: Schema = root["$defs"][schema["$ref"].rpartition("/")[2]]
        schema = target | {key: value for key, value in schema.items() if key != "$ref"}
    return schema


def _choices(schema: Schema) -> list[Schema]:
    """The alternatives of a schema, each with the conditions that stand beside `anyOf`."""
    beside = {key: value for key, value in schema.items() if key not in {"anyOf", "default", *SAID}}
    return [beside | choice for choice in schema["anyOf"]] if "anyOf" in schema else [schema]


def _types(old: Schema, new: Schema, path: str) -> list[str]:
    if "type" not in new:
        return []
    was, is_ = _type_names(old), _type_names(new)
    reads = is_ | {"integer"} if "number" in is_ else is_
    return [] if was <= reads else [f"{path}: type narrowed from {sorted(was)} to {sorted(is_)}"]


def _type_names(schema: Schema) -> set[str]:
    if "type" in schema:
        declared = schema["type"]
        return set(declared) if isinstance(declared, list) else {declared}
    values = _constants(schema)
    return {"any"} if values is None else {JSON_TYPES.get(type(value), "any") for value in values}


def _values(old: Schema, new: Schema, path: str) -> list[str]:
    reads = _constants(new)
    if reads is None:
        return []
    were = _constants(old)
    if were is None:
        return [f"{path}: only {reads!r} is still read"]
    return [f"{path}: value {value!r} is no longer read" for value in were if value not in reads]


def _constants(schema: Schema) -> list[Any] | None:
    """The only values a schema accepts, or None where it does not list them."""
    values: list[Any] | None = [schema["const"]] if "const" in schema else schema.get("enum")
    return values


def _bounds(old: Schema, new: Schema, path: str) -> list[str]:
    found = []
    for key in RAISED:
        if key in new and new[key] > old.get(key, float("-inf")):
            found.append(f"{path}: {key} raised from {old.get(key)} to {new[key]}")
    for key in LOWERED:
        if key in new and new[key] < old.get(key, float("inf")):
            found.append(f"{path}: {key} lowered from {old.get(key)} to {new[key]}")
    unread = sorted((old.keys() | new.keys()) - COMPARED - {"default"})
    for key in (*(key for key in FIXED if key in new), *unread):
        if new.get(key) != old.get(key):
            found.append(f"{path}: {key} changed from {old.get(key)!r} to {new.get(key)!r}")
    return found


def _default(old: Schema, new: Schema, path: str) -> list[str]:
    # A stored message without the field would come to mean something else.
    if "default" in old and old["default"] != new.get("default"):
        return [f"{path}: default changed from {old['default']!r} to {new.get('default')!r}"]
    return []
