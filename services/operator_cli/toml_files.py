"""Writes TOML files whole or not at all. Knows no setting."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tomli_w


def write_toml(file: Path, table: dict[str, Any]) -> None:
    """Writes a table in place of what the file had."""
    temporary = file.with_suffix(".new")
    temporary.write_text(tomli_w.dumps(table))
    temporary.replace(file)
