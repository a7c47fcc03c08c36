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
_ANY = "[...]"
_TOKEN = re.compile(r"[^.\[\]$`]+")
_PASSWORD = re.compile(r"//[^/@]*@")
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
        key = _key(section, _named(unknown["path"], text, tables, settings), unknown["field"])
        close = difflib.get_close_matches(unknown["field"], sorted(_fields(inspect.type_info(settings), set())), 1)
        hint = f'did you mean "{close[0]}"?' if close else "remove it, or see docs/operators/configuration.md"
        return f"{key} is not a setting; {hint}"
    if missing := _MISSING.match(text):
        return f"{_key(section, _named(missing['path'], text, tables, settings), missing['field'])} is missing; add it"
    invalid = _INVALID.match(text)
    path = _named(invalid["path"] if invalid else None, text, tables, settings)
    what = invalid["what"] if invalid else text
    return f"{_key(section, path, '')} = {_value(tables, path)}: {what[:1].lower()}{what[1:]}"


def _named(path: str | None, text: str, tables: object, settings: type[Any]) -> str | None:
    """The path with the names of tables, which msgspec gives as `[...]`: tried one by one for the same complaint."""
    while path is not None and _ANY in path:
        before, _, after = path.partition(_ANY)
        table = _at(tables, before)
        for name, entry in table.items() if isinstance(table, dict) else ():
            alone = _with(tables, _TOKEN.findall(before), {name: entry})
            try:
                msgspec.convert(alone, settings)
            except msgspec.ValidationError as error:
                if str(error) == text:
                    path, tables = f"{before}.{name}{after}", alone
                    break
        else:
            return path
    return path


def _with(tables: object, tokens: list[str], table: dict[str, Any]) -> object:
    """A copy of the tables with another table at the place the tokens lead to."""
    if not tokens:
        return table
    if isinstance(tables, list):
        index = int(tokens[0])
        return [*tables[:index], _with(tables[index], tokens[1:], table), *tables[index + 1 :]]
    return {**tables, tokens[0]: _with(tables[tokens[0]], tokens[1:], table)} if isinstance(tables, dict) else tables


def _key(section: str, path: str | None, field: str) -> str:
    inner = (path or "$").removeprefix("$").strip(".")
    return ".".join(part for part in (section, inner, field) if part) or "the file"


def _at(tables: object, path: str | None) -> object:
    value = tables
    for token in _TOKEN.findall(path or ""):
        if isinstance(value, dict):
            value = value.get(token)
        elif isinstance(value, list) and token.isdigit() and int(token) < len(value):
            value = value[int(token)]
        else:
            return "?"
    return value


def _value(tables: object, path: str | None) -> str:
    """The value as it may be shown: a password in an address is refused, not repeated."""
    value = _at(tables, path)
    return _PASSWORD.sub("//***@", repr("..." if isinstance(value, dict | list) else value))


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
