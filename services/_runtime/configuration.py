"""Reads configuration files whole and says what is wrong in one line. Knows no setting of any service.

Every error names file, key, value and remedy, and a near miss where there is one.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from msgspec import inspect

Settings = TypeVar("Settings")

_UNKNOWN = re.compile(r"Object contains unknown field `(?P<field>.*?)`(?: - at `(?P<path>.*)`)?")
_MISSING = re.compile(r"Object missing required field `(?P<field>.*?)`(?: - at `(?P<path>.*)`)?")
_INVALID = re.compile(r"(?P<what>.*?)(?: - at `(?P<path>.*)`)?$")


class ConfigurationError(Exception):
    """What is wrong with the configuration, in one line with the remedy."""


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file. Raises ConfigurationError when it cannot be read or parsed."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigurationError(f"{path}: no such file; name another with --config") from None
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigurationError(f"{path}: not UTF-8 text; save it as UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{path}: not TOML: {error}") from None


def convert(tables: object, settings: type[Settings], *, file: Path, section: str = "") -> Settings:
    """The tables as a settings struct. Raises ConfigurationError naming file, key, value and remedy."""
    try:
        return msgspec.convert(tables, settings)
    except msgspec.ValidationError as error:
        raise ConfigurationError(f"{file}: {_explained(str(error), tables, settings, section)}") from None


def _explained(text: str, tables: object, settings: type[Any], section: str) -> str:
    if unknown := _UNKNOWN.match(text):
        key = _key(section, unknown["path"], unknown["field"])
        close = difflib.get_close_matches(unknown["field"], sorted(_fields(inspect.type_info(settings), set())), 1)
        hint = f'did you mean "{close[0]}"?' if close else "remove it, or see docs/operators/configuration.md"
        return f"{key} is not a setting; {hint}"
    if missing := _MISSING.match(text):
        return f"{_key(section, missing['path'], missing['field'])} is missing; add it"
    invalid = _INVALID.match(text)
    path = invalid["path"] if invalid else None
    what = invalid["what"] if invalid else text
    return f"{_key(section, path, '')} = {_value(tables, path)!r}: {what[:1].lower()}{what[1:]}"


def _key(section: str, path: str | None, field: str) -> str:
    inner = (path or "$").removeprefix("$").strip(".")
    return ".".join(part for part in (section, inner, field) if part) or "the file"


def _value(tables: object, path: str | None) -> object:
    value = tables
    for token in re.findall(r"[^.\[\]$]+", path or ""):
        if isinstance(value, dict):
            value = value.get(token.strip("`"))
        elif isinstance(value, list) and token.isdigit() and int(token) < len(value):
            value = value[int(token)]
        else:
            return "?"
    return value if not isinstance(value, dict | list) else "..."


def _fields(kind: Any, seen: set[Any]) -> set[str]:
    names: set[str] = set()
    if isinstance(kind, inspect.StructType):
        if kind.cls in seen:
            return names
        seen.add(kind.cls)
        for field in kind.fields:
            names.add(field.encode_name)
            names |= _fields(field.type, seen)
    for inner in (
        *getattr(kind, "types", ()),
        *filter(None, (getattr(kind, each, None) for each in ("item_type", "value_type"))),
    ):
        names |= _fields(inner, seen)
    return names
