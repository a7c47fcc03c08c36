"""What a judgement on a start says, for systems of every kind. Judges nothing itself."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

import msgspec


class Allowed(msgspec.Struct, frozen=True):
    """The user may, and acts at the site under this identity."""

    site_identity: str


class Refused(msgspec.Struct, frozen=True):
    """The user may not: a code for programs, a message and a remedy for people."""

    code: str
    message: str
    remedy: str


Verdict = Allowed | Refused


def choose(what: str, names: Iterable[str], wanted: str = "") -> str:
    """The remedy where a name is not among those that are open: a near miss, or all of them."""
    choices = list(names)
    if not choices:
        return "Ask your support: nothing is open to you here."
    if near := difflib.get_close_matches(wanted, choices, 1):
        return f"Did you mean {near[0]!r}?"
    return f"Choose {what}: {', '.join(choices[:10])}{' ...' if len(choices) > 10 else ''}."
