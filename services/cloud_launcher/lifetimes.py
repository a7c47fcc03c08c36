"""When a server's time is over: its age and how long nobody used it, with a warning before. Pure; knows no clock."""

from __future__ import annotations

from datetime import datetime, timedelta

import msgspec

from services._runtime.clouds import Flavour
from services.cloud_launcher.chronicle import WARNING


class Warn(msgspec.Struct, frozen=True):
    """Say that the end is near."""

    words: str


class End(msgspec.Struct, frozen=True):
    """The time is over, and why."""

    reason: str


class Life(msgspec.Struct, frozen=True, kw_only=True):
    """A server's life so far. `used_at` is when it was last used as far as the hub knows, `warned` the last warning."""

    since: datetime
    max_age_seconds: int
    used_at: datetime
    warned: tuple[str, datetime] | None = None


def judged(flavour: Flavour, life: Life, now: datetime) -> Warn | End | None:
    """What is due now, or nothing.

    An end comes only a whole warning after it was announced, so that a launcher that was away gives notice all the
    same; an announcement for want of use is void once the server was used again.
    """
    ends = [(life.since + timedelta(seconds=life.max_age_seconds), _age(life.max_age_seconds))]
    if flavour.idle_seconds is not None:
        ends.append((life.used_at + timedelta(seconds=flavour.idle_seconds), _idle(flavour.idle_seconds)))
    end, why = min(ends)
    notice = timedelta(seconds=_notice(flavour))
    if now < end - notice:
        return None
    if (announced := _announced(life, why)) is None:
        at = max(end, now + notice)
        return Warn(f"{WARNING}this server ends at {at:%H:%M} UTC: {why}. Save your work.")
    return End(f"The server was ended: {why}.") if now >= max(end, announced + notice) else None


def _announced(life: Life, why: str) -> datetime | None:
    """When an end for this reason was announced, if that still holds."""
    if life.warned is None or why not in life.warned[0]:
        return None
    at = life.warned[1]
    return at if at >= life.used_at or why == _age(life.max_age_seconds) else None


def _notice(flavour: Flavour) -> int:
    """How long before the end a user is told; for a short idle time at most half of it."""
    idle = flavour.idle_seconds
    return flavour.warning_seconds if idle is None else min(flavour.warning_seconds, idle // 2)


def _age(seconds: int) -> str:
    return f"it reached its maximum age of {_duration(seconds)}"


def _idle(seconds: int) -> str:
    return f"nobody used it for {_duration(seconds)}"


def _duration(seconds: int) -> str:
    if seconds < 120:
        return f"{seconds} s"
    return f"{seconds // 60} min" if seconds < 7200 else f"{seconds / 3600:g} h"
