"""How a system stands by what was said of it, and what users are told of that. Pure; asks no site."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

import msgspec

from schemas.system import SystemAnnounced, SystemDown, SystemDrained, SystemEvent, SystemResumed, SystemUp
from services._runtime.log import Recorded


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """How a system stands by operators' words: `drained` and `down` are the reasons, empty where it is not."""

    system: str
    drained: str = ""
    down: str = ""
    by: str = ""
    since: datetime | None = None
    maintenance: SystemAnnounced | None = None


def standing(system: str, history: Iterable[Recorded], now: datetime) -> Standing:
    """How a system stands after its events. A maintenance that is over is not told any more. Pure."""
    here = Standing(system=system)
    for recorded in history:
        event = recorded.message
        if isinstance(event, SystemEvent):
            here = after(here, event)
    over = here.maintenance is not None and here.maintenance.ends is not None and here.maintenance.ends < now
    return msgspec.structs.replace(here, maintenance=None) if over else here


def after(here: Standing, event: SystemEvent) -> Standing:
    """How a system stands after one more event. Pure."""
    changed = msgspec.structs.replace(here, by=event.by, since=event.at)
    match event:
        case SystemDrained():
            return msgspec.structs.replace(changed, drained=event.reason)
        case SystemResumed():
            return msgspec.structs.replace(changed, drained="")
        case SystemDown():
            return msgspec.structs.replace(changed, down=event.reason)
        case SystemUp():
            return msgspec.structs.replace(changed, down="")
        case SystemAnnounced():
            return msgspec.structs.replace(here, maintenance=event)
        case _:
            return here


def notice(here: Standing, now: datetime) -> str:
    """What a user should know of a system before starting there; empty where there is nothing to say. Pure."""
    said = []
    if here.down:
        said.append(f"Does not answer at the moment: {here.down}")
    if here.drained:
        said.append(f"Takes no new servers: {here.drained}")
    if (plan := here.maintenance) is not None and (plan.ends is None or plan.ends >= now):
        until = f" until {_utc(plan.ends)}" if plan.ends else ""
        begun = "Maintenance since" if plan.starts <= now else "Maintenance from"
        said.append(f"{begun} {_utc(plan.starts)}{until}: {plan.reason}")
    return " ".join(each if each.endswith((".", "!", "?")) else f"{each}." for each in said)


def _utc(moment: datetime) -> str:
    """A time as people read it, whatever offset the operator wrote it with."""
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
