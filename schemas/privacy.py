"""What of a message an export may take along, told by the marks on its fields. Pure; writes nothing.

Personal values get pseudonyms, the same for the same value, so that stories stay whole; text for people loses every
personal value that occurs in it; what is marked as dropped goes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from typing import Any, TypeVar

import msgspec
from msgspec import inspect

from schemas.base import Message

AnyMessage = TypeVar("AnyMessage", bound=Message)
Change = Callable[[str, Any], Any]
"""From a mark and a value to what stands in its place."""

SHORTEST_IN_TEXT = 2
"""Personal values shorter than this are not looked for in text: they are everywhere."""
EMPTY: dict[type, Any] = {str: "", dict: {}, list: []}


def personal_values(message: Message) -> set[str]:
    """Every personal value in a message."""
    found: set[str] = set()

    def note(mark: str, value: Any) -> Any:
        if mark == "personal" and isinstance(value, str) and value:
            found.add(value)
        return value

    _changed(_type(type(message)), msgspec.to_builtins(message), note)
    return found


def redacted(message: AnyMessage, pseudonyms: Mapping[str, str]) -> AnyMessage:
    """The message as an export has it; `pseudonyms` has one for every personal value of the whole export."""
    replace = _replacing(pseudonyms)

    def change(mark: str, value: Any) -> Any:
        match mark:
            case "personal":
                return pseudonyms[value] if isinstance(value, str) and value else value
            case "words":
                return replace(value) if isinstance(value, str) else value
            case _:
                return EMPTY[type(value)]

    changed = _changed(_type(type(message)), msgspec.to_builtins(message), change)
    return msgspec.convert(changed, type(message))


def _replacing(pseudonyms: Mapping[str, str]) -> Callable[[str], str]:
    longest_first = sorted((each for each in pseudonyms if len(each) >= SHORTEST_IN_TEXT), key=len, reverse=True)
    if not longest_first:
        return lambda text: text
    pattern = re.compile("|".join(rf"(?<!\w){re.escape(each)}(?!\w)" for each in longest_first))
    return lambda text: pattern.sub(lambda found: pseudonyms[found[0]], text)


@cache
def _type(kind: type[Message]) -> inspect.Type:
    return inspect.type_info(kind)


def _changed(kind: inspect.Type, value: Any, change: Change) -> Any:
    """The value, in the shape of JSON, with every marked part changed."""
    match kind:
        case inspect.Metadata(type=inner, extra=extra):
            mark = (extra or {}).get("privacy")
            return change(mark, value) if mark else _changed(inner, value, change)
        case inspect.UnionType(types=types):
            return _changed(_member(types, value), value, change)
        case inspect.StructType(fields=fields) if isinstance(value, dict):
            types_by_name = {field.encode_name: field.type for field in fields}
            return {
                name: _changed(types_by_name[name], part, change) if name in types_by_name else part
                for name, part in value.items()
            }
        case inspect.ListType(item_type=item) if isinstance(value, list):
            return [_changed(item, part, change) for part in value]
        case inspect.DictType(value_type=item) if isinstance(value, dict):
            return {name: _changed(item, part, change) for name, part in value.items()}
        case _:
            return value


def _member(types: Iterable[inspect.Type], value: Any) -> inspect.Type:
    """The member of a union that a value belongs to: structs by their tag, else the one that is marked, else any."""
    candidates = [each for each in types if not isinstance(each, inspect.NoneType)]
    if isinstance(value, dict):
        for each in candidates:
            if isinstance(each, inspect.StructType) and each.tag_field and value.get(each.tag_field) == each.tag:
                return each
    if value is None or not candidates:
        return inspect.NoneType()
    return next((each for each in candidates if isinstance(each, inspect.Metadata)), candidates[0])


def unmarked_texts(kind: type[Message]) -> Iterator[str]:
    """The text fields of a message without a mark, as paths: each must be harmless."""
    yield from _unmarked(_type(kind), "")


def _unmarked(kind: inspect.Type, path: str) -> Iterator[str]:
    match kind:
        case inspect.Metadata(type=inner, extra=extra):
            if not (extra or {}).get("privacy"):
                yield from _unmarked(inner, path)
        case inspect.UnionType(types=types):
            for each in types:
                yield from _unmarked(each, path)
        case inspect.StructType(fields=fields):
            for field in fields:
                yield from _unmarked(field.type, f"{path}.{field.name}".lstrip("."))
        case inspect.ListType(item_type=item) | inspect.DictType(value_type=item):
            yield from _unmarked(item, f"{path}[]")
        case inspect.StrType():
            yield path
        case _:
            pass
