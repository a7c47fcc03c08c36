"""The claims of a user, from whichever provider, read into grants and groups. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from services.accounts.rights import hpc_infos
from services.accounts.rights.entitlements import Group, groups_of, read
from services.accounts.rights.grant import Grant, Malformed


class ClaimNames(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Under which names the provider delivers what; every one of a list is read."""

    hpc_infos: list[str] = msgspec.field(default_factory=lambda: ["hpc_infos_attribute", "hpc_infos"])
    entitlements: list[str] = msgspec.field(default_factory=lambda: ["entitlements", "eduperson_entitlement"])
    username: str = "preferred_username"
    site_identity: str = "x500name"


class Rights(msgspec.Struct, frozen=True, kw_only=True):
    """What the claims of a user say; `malformed` is for an operator."""

    grants: frozenset[Grant] = frozenset()
    groups: frozenset[str] = frozenset()
    site_identity: str = ""
    malformed: tuple[Malformed, ...] = ()


NO_RIGHTS = Rights()


def rights_in(claims: Mapping[str, object], names: ClaimNames) -> Rights:
    """The rights in the claims. Never raises: what cannot be read is in `malformed`."""
    username = claims.get(names.username)
    found: list[object] = [*hpc_infos.grants_in(_values(claims, names.hpc_infos))]
    found += [
        read(value, username if isinstance(username, str) else "") for value in _values(claims, names.entitlements)
    ]
    identity = claims.get(names.site_identity)
    return Rights(
        grants=frozenset(each for each in found if isinstance(each, Grant)),
        groups=frozenset(groups_of(each for each in found if isinstance(each, Group))),
        site_identity=identity if isinstance(identity, str) and len(identity) <= 255 else "",
        malformed=tuple(sorted({each for each in found if isinstance(each, Malformed)})),
    )


def _values(claims: Mapping[str, object], names: Iterable[str]) -> Iterable[object]:
    """The values under some names: a provider delivers one value as a text and several as a list."""
    for name in names:
        value = claims.get(name)
        if isinstance(value, str):
            yield value
        elif isinstance(value, Iterable) and not isinstance(value, Mapping | bytes):
            yield from value
