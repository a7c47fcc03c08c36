"""`farlab system`: what operators said of systems, and saying more. Starts and stops nothing at a site."""

from __future__ import annotations

import difflib
from datetime import datetime

from schemas.base import SystemName, event_name
from schemas.system import AnySystemEvent, SystemDown, SystemDrained, SystemResumed, SystemUp
from services._runtime.configuration import ConfigurationError
from services._runtime.log import Log
from services._runtime.settings import Configuration
from services._runtime.standing import Standing, standing
from services.operator_cli.acts.append import Operator


async def standings(log: Log, configuration: Configuration, now: datetime) -> list[Standing]:
    """How every configured system stands."""
    subjects = configuration.subjects
    return [
        standing(name, await log.history("SYSTEMS", subjects.system(name)), now) for name in configuration.catalogue
    ]


def known_system(configuration: Configuration, wanted: str) -> SystemName:
    """The configured system of that name. Raises ConfigurationError with a near miss."""
    if wanted in configuration.catalogue:
        return SystemName(wanted)
    close = difflib.get_close_matches(wanted, list(configuration.catalogue), 1)
    hint = f"did you mean {close[0]!r}?" if close else f"there are: {', '.join(configuration.catalogue)}"
    raise ConfigurationError(f"there is no system {wanted!r}; {hint}")


def no_change(here: Standing, event: AnySystemEvent) -> str:
    """Why an event would change nothing, in words; empty when it would. Pure."""
    match event:
        case SystemDrained() if here.drained:
            return f"it is drained already: {here.drained}"
        case SystemResumed() if not here.drained:
            return "it is not drained"
        case SystemDown() if here.down:
            return f"it is said to be down already: {here.down}"
        case SystemUp() if not here.down:
            return "it is not said to be down"
        case _:
            return ""


async def say(operator: Operator, event: AnySystemEvent) -> str:
    """Puts an event of a system into the log unless it changes nothing. Returns what became of it, in words."""
    history = await operator.log.history("SYSTEMS", operator.subjects.system(event.system))
    if unchanged := no_change(standing(event.system, history, event.at), event):
        return unchanged
    await operator.announce(event, event_name(event))
    return event_name(event).replace("-", " ")


def moment(option: str, text: str) -> datetime:
    """A time an operator wrote, with its offset from UTC. Raises ConfigurationError."""
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigurationError(f"{option} {text}: not a time; write it as 2026-12-01T08:00+01:00") from None
    if time.tzinfo is None:
        raise ConfigurationError(f"{option} {text}: in which time zone? write it as {text}+01:00, or with Z for UTC")
    return time
