"""What users are told of systems: maintenance, drain, outage. Follows the log; decides nothing."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from schemas.subjects import Subjects
from schemas.system import SystemEvent
from services._runtime.log import Log, Recorded, Subscription
from services._runtime.standing import Standing, after, notice
from services.hub_bridge.progress import Message


class NoticeBoard:
    """How every system stands now."""

    def __init__(self, log: Log, subjects: Subjects) -> None:
        self._log = log
        self._subjects = subjects
        self._standings: dict[str, Standing] = {}
        self._subscription: Subscription | None = None

    async def start(self) -> None:
        """Returns when all that is in the log now is known here."""
        self._subscription = await self._log.follow("SYSTEMS", [self._subjects.family("system")], self.take)

    async def close(self) -> None:
        """Stops following."""
        if self._subscription is not None:
            await self._subscription.close()

    def take(self, recorded: Recorded) -> None:
        """Takes what was said of a system."""
        event = recorded.message
        if isinstance(event, SystemEvent):
            here = self._standings.get(event.system, Standing(system=event.system))
            self._standings[event.system] = after(here, event)

    def texts(self, systems: Iterable[str], now: datetime) -> dict[str, str]:
        """What users should know of these systems; those there is nothing to say of are left out."""
        told = {name: notice(self._standings[name], now) for name in systems if name in self._standings}
        return {name: text for name, text in told.items() if text}

    def message(self, system: str, title: str, now: datetime) -> Message | None:
        """What the progress page says of a start's system first, or nothing."""
        text = self.texts([system], now).get(system)
        if text is None:
            return None
        here = self._standings[system]
        told = [at for at in (here.since, here.maintenance.at if here.maintenance else None) if at is not None]
        return {
            "progress": 0,
            "message": f"{title}: {text}",
            "event": "notice",
            "at": max(told).isoformat(timespec="milliseconds"),
        }
