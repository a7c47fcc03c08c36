"""Entitlement URNs: resource entitlements of JuDoor and groups after AARC-G069 and its forerunner G002. Pure.

A group has one canonical name, however it was written:
`urn:<nid>:<namespace>:group:<group>[:<subgroup>]*[:role=<role>]` with the NID in lower case, no authority, and
percent-encoding only where a component needs it (RFC 8141 section 2.2).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import quote, unquote

import msgspec

from services.accounts.rights.grant import Grant, Malformed, shown, wrong_name

_URN = re.compile(r"urn:([a-z0-9][a-z0-9-]{0,31}):(.+)", re.IGNORECASE | re.DOTALL)
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_GROUP, _RESOURCE, _ACCOUNT = "group", "res", "act"
LONGEST_VALUE = 2048
KEPT = "".join(chr(code) for code in range(33, 127) if chr(code) not in ":%#?/")
"""What a component holds unencoded: printable ASCII but for what delimits."""


class Group(msgspec.Struct, frozen=True, order=True):
    """Membership in a group, by canonical name and with every group it implies: parents, and the group of a role."""

    name: str
    implied: tuple[str, ...]


class OthersAccount(msgspec.Struct, frozen=True):
    """A secondary account of somebody else's, which the user may not use."""

    value: str


class Unknown(msgspec.Struct, frozen=True):
    """An entitlement that is none of ours."""

    value: str


def read(value: object, username: str) -> Grant | Group | OthersAccount | Unknown | Malformed:
    """What an entitlement says. `username` is the provider's name for the user, for secondary accounts."""
    if not isinstance(value, str):
        return Malformed(shown(value), "not a text")
    urn = _URN.fullmatch(value.strip())
    if urn is None:
        return Unknown(shown(value))
    if len(value) > LONGEST_VALUE:
        return Malformed(shown(value), f"longer than {LONGEST_VALUE} characters")
    body, _, _authority = urn[2].partition("#")
    parts = body.split(":")
    if _RESOURCE in parts[1:] and (_GROUP not in parts or parts.index(_RESOURCE) < parts.index(_GROUP)):
        return _resource(value, parts[parts.index(_RESOURCE, 1) + 1 :], username)
    if _GROUP in parts[1:]:
        begin = parts.index(_GROUP, 1)
        return _group(value, urn[1].lower(), parts[:begin], parts[begin + 1 :])
    return Unknown(shown(value))


def _resource(value: str, parts: list[str], username: str) -> Grant | OthersAccount | Unknown | Malformed:
    """`<systempartition>:<project>:act:<account>:<accounttype>`."""
    if _ACCOUNT not in parts:
        return Unknown(shown(value))
    if len(parts) != 5 or parts[2] != _ACCOUNT:
        return Malformed(shown(value), "not <resource>:<project>:act:<account>:<type> after :res:")
    decoded = [_decoded(part) for part in parts]
    if None in decoded:
        return Malformed(shown(value), "percent-encoding is broken")
    resource, project, _, account, account_type = (part or "" for part in decoded)
    why = next(filter(None, map(wrong_name, (resource, project, account))), "")
    if why:
        return Malformed(shown(value), why)
    match account_type:
        case "normal":
            return Grant(resource, account, project.lower())
        case "secondary" if account == username:
            return Grant(resource, account, project.lower())
        case "secondary":
            return OthersAccount(shown(value))
        case _:
            return Unknown(shown(value))


def _group(value: str, nid: str, namespace: list[str], path: list[str]) -> Group | Malformed:
    role = ""
    if path and path[-1].lower().startswith("role="):
        role, path = path[-1][5:], path[:-1]
        if not role:
            return Malformed(shown(value), "the role is empty")
    if not path or not all(path) or not all(namespace):
        return Malformed(shown(value), "a group or namespace is empty")
    decoded = [_decoded(part) for part in (*namespace, *path, *([role] if role else []))]
    if None in decoded:
        return Malformed(shown(value), "percent-encoding is broken")
    components = [_encoded(part or "") for part in decoded]
    head = ":".join(["urn", nid, *components[: len(namespace)], _GROUP])
    names = components[len(namespace) : len(namespace) + len(path)]
    parents = [":".join([head, *names[:depth]]) for depth in range(1, len(names) + 1)]
    if not role:
        return Group(parents[-1], tuple(parents[:-1]))
    return Group(f"{parents[-1]}:role={components[-1]}", tuple(parents))


def canonical_group(name: str) -> str | None:
    """The canonical name of a group as an operator wrote it; None when it is no group's name."""
    found = read(name, "")
    return found.name if isinstance(found, Group) else None


def groups_of(found: Iterable[object]) -> set[str]:
    """Every group a user is in, by canonical name: those that were said and those that they imply."""
    return {name for each in found if isinstance(each, Group) for name in (each.name, *each.implied)}


def _decoded(part: str) -> str | None:
    if _BAD_ESCAPE.search(part):
        return None
    try:
        return unquote(part, errors="strict")
    except UnicodeDecodeError:
        return None


def _encoded(part: str) -> str:
    return quote(part, safe=KEPT)
