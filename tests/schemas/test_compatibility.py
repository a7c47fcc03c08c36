"""Which change of a schema breaks a reader of old messages, as a truth table, and the structs it comes from."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Meta

from schemas.base import Message, UtcDatetime
from schemas.compatibility import breaks
from schemas.publication import schema_of
from schemas.wire import CURRENT

BASE: dict[str, Any] = {
    "type": "object",
    "properties": {
        "a": {"type": "string", "maxLength": 9, "minLength": 2, "pattern": "^x"},
        "b": {"anyOf": [{"type": "integer"}, {"type": "null"}], "default": None},
        "c": {"enum": ["x", "y"]},
        "d": {"type": "array", "items": {"type": "integer", "minimum": 3}, "maxItems": 4},
        "e": {"$ref": "#/$defs/Inner"},
        "f": {"type": "object", "additionalProperties": {"type": "string"}},
        "g": {"type": "string"},
    },
    "required": ["a"],
    "$defs": {"Inner": {"type": "object", "properties": {"deep": {"type": "integer"}}, "required": []}},
}


def changed(**properties: object) -> dict[str, Any]:
    return BASE | {"properties": BASE["properties"] | properties}


def inner(**schema: object) -> dict[str, Any]:
    return BASE | {"$defs": {"Inner": BASE["$defs"]["Inner"] | schema}}


HARMLESS = {
    "nothing": BASE,
    "words": changed(g={"type": "string", "description": "said better", "title": "G"}),
    "a new optional field": changed(z={"type": "string"}),
    "a higher maximum": changed(a={"type": "string", "maxLength": 10, "minLength": 2, "pattern": "^x"}),
    "a lower minimum": changed(a={"type": "string", "maxLength": 9, "minLength": 1, "pattern": "^x"}),
    "no pattern": changed(a={"type": "string", "maxLength": 9, "minLength": 2}),
    "no condition at all": changed(a={}),
    "one more type": changed(g={"type": ["string", "integer"]}),
    "an integer may be any number": changed(d={"type": "array", "items": {"type": "number"}}),
    "one more alternative": changed(
        b={"anyOf": [{"type": "integer"}, {"type": "null"}, {"type": "string"}], "default": None}
    ),
    "a choice where there was none": changed(g={"anyOf": [{"type": "integer"}, {"type": "string"}]}),
    "one more value": changed(c={"enum": ["x", "y", "z"]}),
    "any text for some texts": changed(c={"type": "string"}),
    "nothing required": BASE | {"required": []},
    "a definition of another name": changed(e={"$ref": "#/$defs/Other"}) | {"$defs": {"Other": BASE["$defs"]["Inner"]}},
    "a new default": changed(g={"type": "string", "default": "g"}),
}  # fmt: skip
BREAKING = {
    "a field less": (BASE | {"properties": {"a": BASE["properties"]["a"]}}, "$.b: removed"),
    "newly required": (BASE | {"required": ["a", "b"]}, "$.b: newly required"),
    "another type": (changed(g={"type": "integer"}), "$.g: type narrowed"),
    "no null": (changed(b={"type": "integer", "default": None}), "$.b: type narrowed"),
    "an alternative less": (changed(b={"anyOf": [{"type": "null"}], "default": None}), "$.b: type narrowed"),
    "a lower maximum": (changed(a={"type": "string", "maxLength": 8}), "$.a: maxLength lowered from 9"),
    "a first maximum": (changed(g={"type": "string", "maxLength": 8}), "$.g: maxLength lowered from None"),
    "a higher minimum": (changed(a={"type": "string", "minLength": 3}), "$.a: minLength raised from 2"),
    "another pattern": (changed(a={"type": "string", "pattern": "^y"}), "$.a: pattern changed"),
    "a format": (changed(g={"type": "string", "format": "date-time"}), "$.g: format changed"),
    "a value less": (changed(c={"enum": ["x"]}), "$.c: value 'y' is no longer read"),
    "some texts for any": (changed(g={"enum": ["x"]}), "$.g: only ['x'] is still read"),
    "one value for some": (changed(c={"const": "x"}), "$.c: value 'y' is no longer read"),
    "fewer items": (changed(d={"type": "array", "maxItems": 3}), "$.d: maxItems lowered"),
    "narrower items": (changed(d={"type": "array", "items": {"type": "string"}}), "$.d[items]: type narrowed"),
    "tighter items": (
        changed(d={"type": "array", "items": {"type": "integer", "minimum": 4}}),
        "$.d[items]: minimum raised",
    ),
    "narrower values": (
        changed(f={"type": "object", "additionalProperties": {"type": "integer"}}),
        "$.f[additionalProperties]: type narrowed",
    ),
    "no unknown fields": (BASE | {"additionalProperties": False}, "$[additionalProperties]: nothing is read any more"),
    "deep inside": (inner(properties={"deep": {"type": "string"}}), "$.e.deep: type narrowed"),
    "newly required inside": (inner(required=["deep"]), "$.e.deep: newly required"),
    "another default": (changed(b=BASE["properties"]["b"] | {"default": 1}), "$.b: default changed from None to 1"),
    "a condition beside alternatives": (
        changed(b={"anyOf": [{"type": "integer"}, {"type": "null"}], "minimum": 5, "default": None}),
        "$.b: minimum raised",
    ),
    "a keyword nobody knows": (changed(g={"type": "string", "not": {"const": "x"}}), "$.g: not changed"),
}


@pytest.mark.parametrize("change", HARMLESS)
def test_harmless_changes_pass(change: str) -> None:
    assert breaks(BASE, HARMLESS[change]) == []


@pytest.mark.parametrize("change", BREAKING)
def test_breaking_changes_are_named(change: str) -> None:
    current, said = BREAKING[change]
    found = breaks(BASE, current)
    assert any(each.startswith(said) for each in found), found


def test_a_schema_that_holds_itself_is_compared_and_ends() -> None:
    def tree(leaf: str) -> dict[str, Any]:
        node = {"type": "object", "properties": {"next": {"$ref": "#/$defs/Node"}, "leaf": {"type": leaf}}}
        return {"$ref": "#/$defs/Node", "$defs": {"Node": node}}

    assert breaks(tree("integer"), tree("integer")) == []
    assert breaks(tree("integer"), tree("string")) == ["$.leaf: type narrowed from ['integer'] to ['string']"]


@given(st.sampled_from(CURRENT))
def test_every_message_is_compatible_with_itself_and_with_no_other(message: type[Message]) -> None:
    assert breaks(schema_of(message), schema_of(message)) == []
    other = CURRENT[CURRENT.index(message) - 1]
    assert breaks(schema_of(message), schema_of(other))


class Old(msgspec.Struct, tag_field="kind", tag="thing"):
    name: Annotated[str, Meta(max_length=10)]
    count: int | None = None
    mode: Literal["a", "b"] = "a"


class Grown(Old, tag_field="kind", tag="thing"):
    more: list[int] = []


class Required(Old, tag_field="kind", tag="thing", kw_only=True):
    more: int


class Closed(Old, tag_field="kind", tag="thing", forbid_unknown_fields=True):
    pass


class Timed(msgspec.Struct, tag_field="kind", tag="thing"):
    name: UtcDatetime
    count: int | None = None
    mode: Literal["a", "b"] = "a"


class Renamed(Old, tag_field="kind", tag="thing-two"):
    pass


@pytest.mark.parametrize(
    ("then", "compatible"),
    [(Old, True), (Grown, True), (Required, False), (Closed, False), (Timed, False), (Renamed, False)],
)
def test_the_verdict_is_right_about_what_msgspec_writes(then: type[msgspec.Struct], compatible: bool) -> None:
    old, new = msgspec.json.schema(Old), msgspec.json.schema(then)
    assert (breaks(old, new) == []) is compatible
    # The verdict is about reading: what the old struct wrote, and a field of tomorrow beside it.
    body = msgspec.json.encode(msgspec.to_builtins(Old("x", 3)) | {"tomorrow": 1})
    try:
        msgspec.json.decode(body, type=then)
    except msgspec.ValidationError:
        assert not compatible
    else:
        assert compatible
