"""The older attribute of JuDoor, delivered by Unity-IdM: `account,systempartition,project,mail` lines. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from services.accounts.rights.grant import Grant, Malformed, shown, wrong_name

FIELDS = 4
"""Account, system partition, project, mail address; what follows is let pass."""


def grants_in(values: Iterable[object]) -> Iterable[Grant | Malformed]:
    """The grants in the attribute's values. Projects are lower-case in JuDoor, however they are written."""
    for value in values:
        yield _grant(value)


def _grant(value: object) -> Grant | Malformed:
    if not isinstance(value, str):
        return Malformed(shown(value), "not a text")
    fields = [field.strip() for field in value.split(",")]
    if len(fields) < FIELDS:
        return Malformed(shown(value), f"{len(fields)} fields instead of account,systempartition,project,mail")
    account, resource, project = fields[0], fields[1], fields[2].lower()
    why = next(filter(None, map(wrong_name, (account, resource, project))), "")
    return Malformed(shown(value), why) if why else Grant(resource, account, project)
