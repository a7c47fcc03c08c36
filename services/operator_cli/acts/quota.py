"""`farlab quota`: every quota with its limits and use, and what an operator asks of one. Changes no quota itself."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import get_args

import msgspec

from schemas.base import UserName
from schemas.quota import LimitOf, LimitValue, QuotaUpdated
from schemas.subjects import Subjects
from services._runtime.configuration import ConfigurationError
from services._runtime.log import Log, Recorded
from services._runtime.settings import Configuration
from services.accounts.quotas import QuotaKey, QuotaState, evolve, key_of
from services.accounts.settings import OVER_TIME, Quota, QuotaResource, accounts_settings

GIBIBYTE = 2**30
HOUR_SECONDS = 3600
RESOURCES: tuple[str, ...] = get_args(QuotaResource)


class Use(msgspec.Struct, frozen=True, kw_only=True):
    """What a user uses of a quota: held by sessions now, and consumed in this period."""

    user: UserName
    used: int


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """A quota as it stands, in its own units; no limit: None. `set_by` names the operator whose limit holds."""

    vo: str
    system: str
    resource: str
    period: str | None
    limit: int | None
    per_user: int | None
    used: int
    sessions: int
    users: list[Use]
    set_by: str = ""


def standings(quotas: Iterable[Quota], history: Iterable[Recorded]) -> list[Standing]:
    """Every configured quota, and every other that the log knows. Pure."""
    known = {key_of(quota): quota for quota in quotas}
    states: dict[QuotaKey, QuotaState] = {key: QuotaState() for key in known}
    set_by: dict[QuotaKey, str] = {}
    for recorded in history:
        event = recorded.message
        if not isinstance(event, QuotaUpdated):
            continue
        key = QuotaKey(event.vo, event.system, event.resource)
        states[key] = evolve(states.get(key, QuotaState()), event)
        if event.change.__struct_config__.tag == "limit-set":
            set_by[key] = getattr(event.change, "by", "")
    return [_standing(key, known.get(key), states[key], set_by.get(key, "")) for key in sorted(states)]


def _standing(key: QuotaKey, quota: Quota | None, state: QuotaState, set_by: str) -> Standing:
    here = quota or Quota(vo=key.vo, system=key.system)
    users = sorted({share.user for share in state.shares.values()} | set(state.consumed))
    ordered = any(value != "configured" for value in state.limits.values())
    return Standing(
        vo=key.vo,
        system=key.system,
        resource=key.resource,
        period=here.period or ("month" if key.resource in OVER_TIME else None),
        limit=state.limit(here, "all"),
        per_user=state.limit(here, "each-user"),
        used=state.used,
        sessions=len(state.shares),
        users=[Use(user=user, used=state.used_by(user)) for user in users],
        set_by=set_by if ordered else "",
    )


async def read(log: Log, subjects: Subjects, configuration: Configuration) -> list[Standing]:
    """Every quota of an installation."""
    history: list[Recorded] = []
    following = await log.follow("QUOTAS", [subjects.family("quota")], history.append)
    await following.close()
    return standings(accounts_settings(configuration).quotas, history)


def said(resource: str, amount: int | None) -> str:
    """An amount with the unit that people use; None: no limit."""
    if amount is None:
        return "unlimited"
    if resource == "memory-bytes":
        return f"{amount / GIBIBYTE:.4g} GiB"
    return f"{amount / HOUR_SECONDS:.4g} h" if resource in OVER_TIME else str(amount)


def limit_value(resource: str, text: str) -> LimitValue:
    """A limit as an operator writes it: 8, 64GiB, 200h, unlimited or configured. Raises ConfigurationError."""
    word = text.strip().lower()
    if word == "unlimited":
        return "unlimited"
    if word == "configured":
        return "configured"
    unit = {"memory-bytes": ("gib", GIBIBYTE), "core-seconds": ("h", HOUR_SECONDS), "gpu-seconds": ("h", HOUR_SECONDS)}
    suffix, factor = unit.get(resource, ("", 1))
    factor = factor if suffix and word.endswith(suffix) else 1
    number = word.removesuffix(suffix) if factor != 1 else word
    if not number.isascii() or not number.isdigit() or len(number) > 15:
        hint = f", or {8}{suffix.replace('gib', 'GiB')}" if suffix else ""
        raise ConfigurationError(
            f"LIMIT {text!r}: not a limit of {resource}; write a whole number{hint}, unlimited or configured"
        )
    return int(number) * factor


def checked(configuration: Configuration, vo: str, system: str, resource: str) -> QuotaKey:
    """The quota an operator means. Raises ConfigurationError with a near miss."""
    settings = accounts_settings(configuration)
    vos = {"default", *(each.name for each in settings.organisations), *(each.vo for each in settings.quotas)}
    vos |= {name for user in settings.users for name in user.vos}
    for what, wanted, there in (
        ("virtual organisation", vo, sorted(vos)),
        ("system", system, list(configuration.catalogue)),
        ("resource", resource, list(RESOURCES)),
    ):
        if wanted not in there:
            close = difflib.get_close_matches(wanted, there, 1)
            hint = f"did you mean {close[0]!r}?" if close else f"there are: {', '.join(there)}"
            raise ConfigurationError(f"there is no {what} {wanted!r}; {hint}")
    return QuotaKey(vo, system, resource)


def preview(here: Standing | None, key: QuotaKey, of: LimitOf, value: LimitValue) -> list[str]:
    """What a new limit changes, in words. Pure."""
    whose = "all users together" if of == "all" else "each user"
    before = None if here is None else (here.limit if of == "all" else here.per_user)
    after = said(key.resource, value) if isinstance(value, int) else value
    lines = [f"{' '.join(key)}: {whose}: {said(key.resource, before)} -> {after}"]
    if here is not None and isinstance(value, int):
        most = here.used if of == "all" else max((each.used for each in here.users), default=0)
        if most > value:
            used = said(key.resource, most)
            lines.append(f"{used} are in use: nothing running is taken away, and no start fits until less is used")
    return lines
