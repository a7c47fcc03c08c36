"""One right as providers state it: an account and a project on a resource. Knows no system of ours."""

from __future__ import annotations

import msgspec

LONGEST_NAME = 64


class Grant(msgspec.Struct, frozen=True, order=True):
    """`account` may use `project` on `resource`, which is the provider's name for a system or a part of one."""

    resource: str
    account: str
    project: str


class Malformed(msgspec.Struct, frozen=True, order=True):
    """A value that claims to be a right and is not, and why."""

    value: str
    why: str


def wrong_name(name: str) -> str:
    """Why a text cannot be the name of an account, project or resource; empty when it can."""
    if not name:
        return "a name is empty"
    if len(name) > LONGEST_NAME:
        return f"a name is longer than {LONGEST_NAME} characters"
    if not name.isprintable() or any(letter.isspace() for letter in name):
        return "a name has spaces or control characters"
    return ""


def shown(value: object) -> str:
    """A value as an operator may see it: one line, bounded."""
    text = str(value)[:200]
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in text)
