"""What `farlab access` and `farlab vo` do: read the access log and the configuration, and print. Change nothing."""

from __future__ import annotations

import difflib
from datetime import UTC, datetime
from typing import Any

import msgspec

from schemas.access import AccessChanged
from schemas.base import UserName
from schemas.subjects import slug
from services._runtime.configuration import ConfigurationError
from services._runtime.connection import Broker
from services._runtime.log import Recorded
from services._runtime.settings import Configuration
from services.accounts.access import CLAIMS, Learned
from services.accounts.organisations import Organisation, as_member
from services.accounts.settings import accounts_settings
from services.operator_cli.output import console, print_json, print_table


async def show(broker: Broker, configuration: Configuration, user: str, *, as_json: bool) -> int:
    """`farlab access show`. Raises ConfigurationError for a user nothing is known of."""
    history = await broker.log.history("ACCESS", configuration.subjects.access_changed(UserName(user)))
    changes = [each.message for each in history if isinstance(each.message, AccessChanged)]
    if not changes:
        known = list(await _latest(broker, configuration))
        near = difflib.get_close_matches(user, known, 1)
        hint = f"did you mean {near[0]!r}?" if near else "users are known once they signed in or are configured"
        raise ConfigurationError(f"nothing is known of a user {user!r}; {hint}")
    last = changes[-1]
    entry = await broker.access.get(CLAIMS + slug(UserName(user)))
    learned = msgspec.json.decode(entry[0], type=Learned) if entry is not None else None
    malformed = learned.rights.malformed if learned is not None else ()
    if as_json:
        print_json({"record": last.record, "changed_at": last.at, "reason": last.reason, "malformed": malformed})
        return 0
    rows = [
        (access.system, account.name, project.name, ", ".join(project.partitions) or "all")
        for access in last.record.systems
        for account in access.accounts
        for project in account.projects
    ]
    print_table(f"{user}, as of {last.at:%Y-%m-%d %H:%M:%S} UTC ({last.reason})", _PLACES, rows)
    console.print(f"virtual organisations: {', '.join(last.record.vos)}", markup=False, highlight=False)
    if learned is not None:
        console.print(f"last heard from the identity provider at {learned.at:%Y-%m-%d %H:%M:%S} UTC", markup=False)
    for each in malformed:
        console.print(f"skipped: {each.value}: {each.why}", markup=False, highlight=False, soft_wrap=True)
    return 0


_PLACES = ("system", "account", "project", "partitions")


async def _latest(broker: Broker, configuration: Configuration) -> dict[str, AccessChanged]:
    """The newest record of every user."""
    latest: dict[str, AccessChanged] = {}

    def take(recorded: Recorded) -> None:
        if isinstance(recorded.message, AccessChanged):
            latest[recorded.message.user] = recorded.message

    following = await broker.log.follow("ACCESS", [configuration.subjects.family("access")], take)
    await following.close()
    return latest


def list_organisations(configuration: Configuration, *, as_json: bool) -> int:
    """`farlab vo list`."""
    organisations = accounts_settings(configuration).organisations
    if as_json:
        print_json(organisations)
        return 0
    print_table(
        f"{len(organisations)} virtual organisations, and everybody is in `default`",
        ("name", "title", "members", "systems", "valid"),
        [
            (each.name, each.title, _members(each), ", ".join(each.systems) or "all", _period(each))
            for each in organisations
        ],
    )
    return 0


async def show_organisation(broker: Broker, configuration: Configuration, name: str, *, as_json: bool) -> int:
    """`farlab vo show`. Raises ConfigurationError for one that is not configured."""
    organisations = {each.name: each for each in accounts_settings(configuration).organisations}
    if name not in organisations:
        raise ConfigurationError(
            f"no virtual organisation {name!r} is configured; there are: {', '.join(organisations)}"
        )
    organisation = organisations[name]
    members = sorted(user for user, each in (await _latest(broker, configuration)).items() if name in each.record.vos)
    if as_json:
        plain: dict[str, Any] = msgspec.to_builtins(organisation)
        print_json({**plain, "members": members, "valid_now": _valid_now(organisation)})
        return 0
    lines = [
        f"{organisation.name}: {organisation.title}",
        f"  members by        {_members(organisation)}",
        f"  known members     {', '.join(members) or 'none'}",
        f"  systems           {', '.join(organisation.systems) or 'all a member has'}",
        f"  valid             {_period(organisation)}{'' if _valid_now(organisation) else ' (not now)'}",
    ]
    for system, partitions in organisation.limits.items():
        for partition, limit in partitions.items():
            said = {key: value for key, value in msgspec.to_builtins(limit).items() if value is not None}
            lines.append(f"  limits            {system}/{partition}: {said}")
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    return 0


def _members(organisation: Organisation) -> str:
    return ", ".join([*organisation.groups, *organisation.users]) or "nobody"


def _period(organisation: Organisation) -> str:
    begin, end = organisation.valid_from, organisation.valid_until
    since = f"from {begin:%Y-%m-%d %H:%M} UTC" if begin else ""
    until = f"until {end:%Y-%m-%d %H:%M} UTC" if end else ""
    return " ".join(filter(None, (since, until))) or "always"


def _valid_now(organisation: Organisation) -> bool:
    return as_member(organisation).holds_at(datetime.now(UTC))
