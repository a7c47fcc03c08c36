"""Who acts, and whether the operator agreed to what was shown. Does nothing itself."""

from __future__ import annotations

import getpass
import sys
from collections.abc import Sequence

import msgspec
import typer

from services._runtime.configuration import ConfigurationError
from services.operator_cli.output import console, errors

SHOWN = 20
"""How many lines of a preview are printed; the rest is counted."""


class Consent(msgspec.Struct, frozen=True, kw_only=True):
    """How an act is to be agreed to: `dry_run` only shows it, `yes` asks nothing."""

    yes: bool = False
    dry_run: bool = False


def operator() -> str:
    """Who acts, as events name him."""
    return f"operator {getpass.getuser()}"


def agreed(consent: Consent, question: str, preview: Sequence[str]) -> bool:
    """Shows what would be done and whether it shall be. Raises ConfigurationError where nobody can be asked."""
    for line in preview[:SHOWN]:
        console.print(f"  {line}", markup=False, highlight=False, soft_wrap=True)
    if len(preview) > SHOWN:
        console.print(f"  ... and {len(preview) - SHOWN} more", markup=False, highlight=False)
    if consent.dry_run:
        console.print("Nothing was done: --dry-run.", markup=False)
        return False
    if consent.yes:
        return True
    if not sys.stdin.isatty():
        raise ConfigurationError(f"{question} Nobody can be asked here: look with --dry-run, then add --yes")
    if typer.confirm(question, err=True):
        return True
    errors.print("Nothing was done.", markup=False)
    return False
