"""Publishes every message version: its JSON Schema and a sample body, append-only, byte for byte, for ever.

`python -m schemas.publication` writes what is new into `schemas/published/`; `--check` only says what is missing or
was changed. A published file never changes: a breaking change is a new version (see docs/architecture/events.md).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
from msgspec import inspect

from schemas.base import EventId, Message, message_type
from schemas.compatibility import breaks
from schemas.wire import CURRENT, READABLE, encode

FOLDER = Path(__file__).with_name("published")
MANIFEST = "MANIFEST.sha256"
ALWAYS = ["type", "id", "at", "source"]
"""On the wire always, although the structs have defaults for deciders that know none of them."""

SAMPLES: dict[str, Any] = {
    "hub": "main",
    "system": "juwels",
    "session": "01k6y3m8zt5q0v7n2c4e9wxr1h",
    "sign_in": "01k6y3m8zt5q0v7n2c4e9wxr2j",
    "level": "https://refeds.org/profile/mfa",
    "methods": "otp",
    "user": "ada",
    "server_name": "",
    "vo": "default",
    "id": "0123456789abcdef0123456789abcdef",
    "cause": "fedcba9876543210fedcba9876543210",
    "source": "farlab/sample",
    "resource": "sessions",
    "code": "quota-full",
    "host": "jwc00n001.juwels",
    "base_url": "/user/ada/",
    "generation": 1,
    "port": 9000,
    "message": "All users together hold 100 of 100 sessions on juwels.",
    "remedy": "Try again later.",
    "reason": "asked by the user",
    "by": "ada",
    "job": "4f1c2d",
    "percent": 40,
    "place_in_queue": 3,
}
NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


def schema_of(message: type[Message]) -> dict[str, Any]:
    """The JSON Schema of a message as it stands on the wire."""
    schema = msgspec.json.schema(message)
    name = schema.pop("$ref").rpartition("/")[2]
    definition = schema["$defs"].pop(name)
    required = [*ALWAYS, *[each for each in definition.get("required", []) if each not in ALWAYS]]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:farlab:schema:{message_type(message)}",
        **definition,
        "required": required,
        **({"$defs": schema["$defs"]} if schema["$defs"] else {}),
    }


def sample_of(message: type[Message]) -> Message:
    """A complete message of a type, the same each time."""
    sample = msgspec.convert(_sample(inspect.type_info(message), ""), message)
    return msgspec.structs.replace(sample, id=EventId(SAMPLES["id"]), at=NOW)


def _sample(kind: Any, name: str) -> Any:
    match kind:
        case inspect.Metadata():
            return _sample(kind.type, name)
        case inspect.StructType():
            values = {field.encode_name: _sample(field.type, field.encode_name) for field in kind.fields}
            return ({kind.tag_field: kind.tag} if kind.tag_field else {}) | values
        case inspect.UnionType():
            present = [each for each in kind.types if not isinstance(each, inspect.NoneType)]
            return _sample(next((each for each in present if isinstance(each, inspect.StructType)), present[0]), name)
        case inspect.LiteralType():
            return kind.values[0]
        case inspect.DateTimeType():
            return NOW.isoformat()
        case inspect.ListType():
            return [_sample(kind.item_type, name)]
        case inspect.DictType():
            return {"OMP_NUM_THREADS": "4"}
        case inspect.StrType():
            return SAMPLES.get(name, name.replace("_", "-") or "default")
        case inspect.IntType():
            return SAMPLES.get(name, kind.ge if kind.ge else 1)
        case inspect.BoolType():
            return True
        case _:
            raise TypeError(f"no sample for {kind} ({name})")


def files() -> dict[str, bytes]:
    """What should be published for the messages of today, by file name."""
    wanted = {}
    for message in CURRENT:
        name = message_type(message)
        wanted[f"{name}.schema.json"] = msgspec.json.format(msgspec.json.encode(schema_of(message)), indent=2) + b"\n"
        wanted[f"{name}.json"] = msgspec.json.format(encode(sample_of(message)), indent=2) + b"\n"
    return wanted


def manifest(folder: Path) -> dict[str, str]:
    """The digests of what was ever published, by file name. A name counts as it was first written."""
    known: dict[str, str] = {}
    for digest, name in _entries(folder):
        known.setdefault(name, digest)
    return known


def _entries(folder: Path) -> list[tuple[str, str]]:
    file = folder / MANIFEST
    lines = file.read_text().splitlines() if file.exists() else []
    return [(digest, name) for digest, _, name in (line.partition("  ") for line in lines)]


def strays(folder: Path) -> list[str]:
    """Files in the folder that the manifest does not name: publishing neither trusts nor overwrites them."""
    known = manifest(folder)
    return sorted(file.name for file in folder.glob("*") if file.name != MANIFEST and file.name not in known)


def breaking_changes(folder: Path) -> list[str]:
    """What today's structs, current and retired, no longer read of what their published schemas promised."""
    found = []
    for message in READABLE:
        name = f"{message_type(message)}.schema.json"
        if (folder / name).exists():
            published = msgspec.json.decode((folder / name).read_bytes())
            found += [f"{name}: {reason}; make a new version" for reason in breaks(published, schema_of(message))]
    return found


def problems(folder: Path) -> list[str]:
    """What of the published files is missing, was changed, or was never published, and what broke since."""
    known = manifest(folder)
    names = [name for _, name in _entries(folder)]
    found = [f"{name} is in {MANIFEST} more than once; restore the manifest" for name in known if names.count(name) > 1]
    found += [f"{name} lies among the published files and is not in {MANIFEST}" for name in strays(folder)]
    for name, digest in known.items():
        file = folder / name
        if not file.exists():
            found.append(f"{name} was published and is gone; restore it")
        elif sha256(file.read_bytes()).hexdigest() != digest:
            found.append(f"{name} was published and has changed; restore it and make a new version instead")
    unpublished = [name for name in files() if name not in known]
    found += [f"{name} is not published; run: python -m schemas.publication" for name in unpublished]
    return found + breaking_changes(folder)


def publish(folder: Path) -> list[str]:
    """Writes what was never published; returns the names. A file that exists is left alone, listed or not."""
    folder.mkdir(exist_ok=True)
    known = manifest(folder)
    new = {name: content for name, content in files().items() if name not in known and not (folder / name).exists()}
    listed = (folder / MANIFEST).read_text() if known else ""
    with (folder / MANIFEST).open("a") as file:
        file.write("\n" if listed and not listed.endswith("\n") else "")
        for name, content in new.items():
            (folder / name).write_bytes(content)
            file.write(f"{sha256(content).hexdigest()}  {name}\n")
    return list(new)


def main(arguments: Sequence[str] | None = None, *, folder: Path = FOLDER) -> int:
    """Publishes what is new, unless `--check`. Exit code 1 when something is wrong, each line naming a file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, only say what is wrong")
    if not parser.parse_args(arguments).check:
        for name in publish(folder):
            sys.stdout.write(f"published {name}\n")
    found = problems(folder)
    for problem in found:
        sys.stderr.write(f"{problem}\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
