"""What support needs to know of an installation, without its people, secrets and sites' insides. Sends nothing."""

from __future__ import annotations

import io
import json
import platform
import sys
import tarfile
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import datetime
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import msgspec

from services._runtime.configuration import read_toml
from services._runtime.settings import Configuration
from services.operator_cli.set_up.reach import Finding

HARMLESS = {"level", "event", "timestamp", "logger", "service", "event_type", "system", "command", "code"}
"""What of a log line is taken along: the words of the program, never a value from a user, a site or an exception."""
LAST_LINES = 500
PERSONAL = (
    "users",
    "title",
    "description",
    "prologue",
    "python",
    "name",
    "names",
    "user",
    "admins",
    "issuer_dn",
    "site_identity",
    "claims",
)
ADDRESSES = ("url", "servers", "login_node", "login_nodes", "compute_nodes", "networks", "hosts", "host")


def redacted(value: Any, key: str = "") -> Any:
    """A configuration without people, addresses and file paths: its shape stays. Pure."""
    if (
        key in PERSONAL
        or key in ADDRESSES
        or key.endswith(("_file", "_url", "_host", "_address", "_folder", "secret", "token", "password"))
    ):
        return f"({type(value).__name__}, left out)"
    if isinstance(value, Mapping):
        return {name: redacted(each, name) for name, each in value.items()}
    if isinstance(value, list):
        return [redacted(each, key) for each in value]
    return value


def log_lines(lines: Iterable[str]) -> list[dict[str, Any]]:
    """The last lines of a service's log, with what is harmless of each; lines that are no JSON are counted. Pure."""
    kept: list[dict[str, Any]] = []
    other = 0
    for line in list(lines)[-LAST_LINES:]:
        try:
            fields = msgspec.json.decode(line, type=dict[str, Any])
        except (msgspec.MsgspecError, UnicodeDecodeError):
            other += 1
            continue
        kept.append({name: value for name, value in fields.items() if name in HARMLESS})
    return [*kept, {"lines_that_are_no_json": other}] if other else kept


def versions() -> dict[str, str]:
    """Python, the machine's kind, and every installed package."""
    packages = {each.name: each.version for each in distributions()}
    return {"python": sys.version.split()[0], "system": platform.platform(), **dict(sorted(packages.items()))}


def counted(states: Iterable[tuple[str, str]]) -> dict[str, int]:
    """How many sessions are in which state on which system. Pure."""
    return dict(sorted(Counter(f"{system} {state}" for system, state in states).items()))


def bundle(
    configuration: Configuration,
    found: Iterable[Finding],
    sessions: Mapping[str, int],
    dead: Mapping[str, int],
    logs: Path | None,
    made_at: datetime,
) -> bytes:
    """The support bundle: a gzipped tar of JSON files."""
    told: dict[str, Any] = {
        "versions.json": versions(),
        "configuration.json": {
            configuration.file.name: redacted(read_toml(configuration.file)),
            **{name: redacted(msgspec.to_builtins(system)) for name, system in configuration.catalogue.items()},
        },
        "checks.json": [{"asked": _asked(each.asked), "well": not each.problem} for each in found],
        "sessions.json": dict(sessions),
        "dead_letters.json": dict(dead),
    }
    for file in sorted(logs.glob("*.log")) if logs is not None and logs.is_dir() else []:
        told[f"logs/{file.stem}.json"] = log_lines(file.read_text(errors="replace").splitlines())
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for name, content in told.items():
            text = json.dumps(content, indent=1, default=str).encode()
            entry = tarfile.TarInfo(f"farlab-support/{name}")
            entry.size, entry.mode, entry.mtime = len(text), 0o600, int(made_at.timestamp())
            tar.addfile(entry, io.BytesIO(text))
    return out.getvalue()


def _asked(question: str) -> str:
    """The question without an address in it."""
    return "a login node" if question.startswith("login node") else question
