"""What an upgrade changes in the contract: the schemas of one build held against those of another. Reads folders."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from schemas import publication
from schemas.compatibility import breaks
from services._runtime.configuration import ConfigurationError

INSTALLED = "installed"
ENDING = ".schema.json"

Schemas = Mapping[str, dict[str, Any]]
"""JSON Schemas by message type and version."""


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one message version; `old_readers` and `new_readers` are what they can no longer read."""

    type: str
    kind: str
    old_readers: list[str] = []
    new_readers: list[str] = []


def installed() -> Schemas:
    """What this build writes and reads."""
    return {
        name.removesuffix(ENDING): msgspec.json.decode(content)
        for name, content in publication.files().items()
        if name.endswith(ENDING)
    }


def schemas_at(where: str) -> Schemas:
    """The schemas in a folder that `farlab schemas export` wrote, or `installed`. Raises ConfigurationError."""
    if where == INSTALLED:
        return installed()
    folder = Path(where)
    files = sorted(folder.glob(f"*{ENDING}")) if folder.is_dir() else []
    if not files:
        raise ConfigurationError(
            f"{where}: no folder with schemas; write one with `farlab schemas export --to FOLDER`, or say {INSTALLED!r}"
        )
    found: dict[str, dict[str, Any]] = {}
    for file in files:
        try:
            found[file.name.removesuffix(ENDING)] = msgspec.json.decode(file.read_bytes(), type=dict[str, Any])
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"{file}: not a schema ({error}); export the folder again") from None
    return found


def changes(old: Schemas, new: Schemas) -> list[Change]:
    """Every message version that is not the same in both, by type. Pure."""
    found = []
    for name in sorted({*old, *new}):
        if name not in old:
            found.append(Change(type=name, kind="added"))
        elif name not in new:
            found.append(Change(type=name, kind="removed", new_readers=["it is not written any more"]))
        elif old[name] != new[name]:
            found.append(
                Change(
                    type=name,
                    kind="changed",
                    old_readers=breaks(new[name], old[name]),
                    new_readers=breaks(old[name], new[name]),
                )
            )
    return found


def breaking(found: list[Change]) -> bool:
    """Whether the new build cannot read what the old one wrote: an upgrade would lose history."""
    return any(change.kind == "changed" and change.new_readers for change in found)
