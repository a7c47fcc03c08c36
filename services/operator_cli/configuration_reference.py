"""The page docs/operators/configuration.md, made from the settings themselves. Reads no configuration."""

from __future__ import annotations

import inspect as python_inspect
import sys
from typing import Any

import msgspec
from msgspec import inspect

from services._runtime.clouds import CloudSystem
from services._runtime.settings import Shared
from services._runtime.systems import System
from services.accounts.settings import AccountsSettings
from services.cloud_launcher.settings import CloudLauncherSettings
from services.hpc_launcher.settings import HpcLauncherSettings
from services.hub_bridge.settings import HubBridgeSettings
from services.tunneler.settings import TunnelerSettings

INTRODUCTION = """# Configuration

*This page is generated from the settings: `python -m services.operator_cli.configuration_reference`.*

An installation has one `farlab.toml` and a folder with one file a system. Check both with `farlab config check`: every
error names the file, the key, the value and the remedy. Names of files and folders count from the file they stand in.
Secrets never stand in these files, only the names of files that hold them, which must be readable by their owner alone.
"""


def page() -> str:
    """The whole page."""
    parts = [INTRODUCTION, "## farlab.toml\n"]
    for name, field in _fields(Shared):
        for settings in _structs(field.type):
            parts += _table(f"[{name}]", settings)
    for title, settings in (
        ("[hub_bridge]", HubBridgeSettings),
        ("[accounts]", AccountsSettings),
        ("[hpc_launcher]", HpcLauncherSettings),
        ("[cloud_launcher]", CloudLauncherSettings),
        ("[tunneler]", TunnelerSettings),
    ):
        parts += _table(title, settings)
    parts += ["## systems/NAME.toml of an HPC system\n", *_table("the file", System)]
    parts += ["## systems/NAME.toml of a cloud\n", *_table("the file", CloudSystem)]
    return "\n".join(parts)


def _fields(settings: type[Any]) -> list[tuple[str, Any]]:
    kind = inspect.type_info(settings)
    assert isinstance(kind, inspect.StructType)  # noqa: S101 - settings are structs
    return [(field.encode_name, field) for field in kind.fields]


def _table(title: str, settings: type[Any]) -> list[str]:
    lines = [f"### {title}\n", python_inspect.cleandoc(settings.__doc__ or "") + "\n"]
    lines += ["| key | type | default |", "|---|---|---|"]
    inner: list[tuple[str, type[Any]]] = []
    for name, field in _fields(settings):
        lines.append(f"| `{name}` | {_type(field.type)} | {_default(field)} |")
        inner += [
            (f"{title.partition(']')[0].strip('[')}.{name}".removeprefix("the file."), each)
            for each in _structs(field.type)
        ]
    lines.append("")
    for name, each in inner:
        lines += _table(f"[{name}]" + (f" with `{_tag(each)}`" if _tag(each) else ""), each)
    return lines


def _tag(settings: type[Any]) -> str:
    config = settings.__struct_config__
    return f'{config.tag_field} = "{config.tag}"' if config.tag_field else ""


def _structs(kind: Any) -> list[type[Any]]:
    match kind:
        case inspect.StructType():
            return [kind.cls]
        case inspect.UnionType():
            return [struct for each in kind.types for struct in _structs(each)]
        case inspect.ListType():
            return _structs(kind.item_type)
        case inspect.DictType():
            return _structs(kind.value_type)
        case _:
            return []


def _type(kind: Any) -> str:
    match kind:
        case inspect.StructType():
            return "table"
        case inspect.UnionType():
            return " or ".join(sorted({_type(each) for each in kind.types if not isinstance(each, inspect.NoneType)}))
        case inspect.ListType():
            return f"list of {_type(kind.item_type)}s"
        case inspect.DictType():
            return f"table of {_type(kind.value_type)}s by name"
        case inspect.TupleType():
            return f"list of {len(kind.item_types)}"
        case inspect.LiteralType():
            return " or ".join(f"`{value}`" for value in kind.values)
        case inspect.StrType():
            return "text"
        case inspect.IntType():
            return "whole number"
        case inspect.FloatType():
            return "number"
        case inspect.BoolType():
            return "true or false"
        case inspect.AnyType():
            return "value"
        case _:
            return type(kind).__name__


def _default(field: Any) -> str:
    if field.required:
        return "**required**"
    if field.default is not msgspec.NODEFAULT:
        value = field.default
        return "" if value is None or isinstance(value, msgspec.Struct) else f"`{msgspec.json.encode(value).decode()}`"
    if field.default_factory in (list, dict):
        return "empty"
    return "see above"


if __name__ == "__main__":
    sys.stdout.write(page())
