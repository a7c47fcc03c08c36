"""Carries out admission: judges a start, has its shares reserved, or gives it a place in the line. Ends nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime

from schemas.base import SessionId, SystemName, UserName
from schemas.lifecycle import Admitted, SessionState, Waiting, WithJob
from schemas.session import SessionEvent, StartAdmitted, StartRejected, StartRequested, StartWaiting, StepUp
from services._runtime.clouds import CatalogueEntry
from services._runtime.log import Recorded
from services._runtime.view import SessionView
from services.accounts.access import AccessBook
from services.accounts.admission import DRAINED, Rules, judge
from services.accounts.ledger import Ledger
from services.accounts.line import Line, in_turn, line_of, may_wait, standings
from services.accounts.quotas import Full
from services.accounts.second_factor import TooWeak
from services.accounts.settings import Waiting as WaitingSettings
from services.accounts.verdicts import Refused

TooWeakNow = Callable[[StartRequested], Awaitable[TooWeak | None]]
"""Why the sign-in of a start does not do, where it does not."""


class Admission:
    """Who may start now, who waits, and whose turn it is. Places are those of this replica's view."""

    def __init__(
        self,
        *,
        systems: Mapping[SystemName, CatalogueEntry],
        book: AccessBook,
        ledger: Ledger,
        view: SessionView,
        too_weak: TooWeakNow,
        waiting: WaitingSettings,
        now: Callable[[], datetime],
    ) -> None:
        self.drained: dict[SystemName, str] = {}
        self._systems = systems
        self._book = book
        self._ledger = ledger
        self._view = view
        self._too_weak = too_weak
        self._settings = waiting
        self._now = now
        self._waiting: dict[SessionId, tuple[StartRequested, int]] = {}

    def observe(self, _recorded: Recorded, before: SessionState, after: SessionState) -> None:
        """Takes an event that entered the view. Give it to the view before that follows the log."""
        if isinstance(after, Waiting):
            self._waiting[after.request.session] = (after.request, after.place_in_queue)
        elif isinstance(before, Waiting):
            self._waiting.pop(before.request.session, None)

    async def admit(self, request: StartRequested, place: int | None) -> Sequence[SessionEvent]:
        """What becomes of a start; nothing new where it waits at the same `place`."""
        verdict = judge(request, Rules(self._systems, self._book.records, self.drained))
        if isinstance(verdict, Refused):
            waits = verdict.code == DRAINED and self._settings.when_drained == "wait"
            return self._wait(request, place, verdict) if waits else [_rejected(request, verdict)]
        if (weak := await self._too_weak(request)) is not None:
            return [_rejected(request, Refused("second-factor", weak.message, weak.remedy), weak.step_up)]
        if (full := self._refusing(self._ledger.fulls(request))) is not None:
            return [_rejected(request, _full(full))]
        if (full := self._kept_by(request)) is not None:
            return self._wait(request, place, _full(full))
        if (full := await self._ledger.reserve(request)) is not None:
            refuses = self._refusing([full]) is not None
            return [_rejected(request, _full(full))] if refuses else self._wait(request, place, _full(full))
        return [
            StartAdmitted(
                hub=request.hub, system=request.system, session=request.session, site_identity=verdict.site_identity
            )
        ]

    def turns(self) -> list[SessionId]:
        """Whoever may be admitted, stands at another place now, or has waited too long: to be judged anew."""
        found: list[SessionId] = []
        for line in {line_of(request) for request, _ in self._waiting.values()}:
            ordered = self._line(line)
            for each in standings(ordered, self._ledger.fulls, self._ledger.claims):
                request = each.request
                moved = self._waiting[request.session][1] != each.place
                over = may_wait(request, ordered, self._settings, self._now()) is not None
                free = each.kept_by is None or self._refusing(self._ledger.fulls(request)) is not None
                if moved or over or (free and request.system not in self.drained):
                    found.append(request.session)
        return found

    def _refusing(self, fulls: Sequence[Full]) -> Full | None:
        """What is full and lets nobody wait."""
        return next((each for each in fulls if self._ledger.when_full(each.quota) == "reject"), None)

    def _line(self, line: Line) -> list[StartRequested]:
        """Who waits there, in the order of their turns."""
        waiting = [request for request, _ in self._waiting.values() if line_of(request) == line]
        if not waiting:
            return []
        running: Counter[UserName] = Counter()
        for _, placed in self._view.live():
            if isinstance(placed.state, Admitted | WithJob) and line_of(placed.state.request) == line:
                running[placed.state.request.user] += 1
        return in_turn(waiting, running)

    def _kept_by(self, request: StartRequested) -> Full | None:
        """What keeps a start from being admitted while others wait."""
        ordered = self._line(line_of(request))
        if not ordered:
            return None
        if all(each.session != request.session for each in ordered):
            ordered.append(request)
        stands = standings(ordered, self._ledger.fulls, self._ledger.claims)
        return next(each.kept_by for each in stands if each.request.session == request.session)

    def _wait(self, request: StartRequested, place: int | None, why: Refused) -> Sequence[SessionEvent]:
        """The start's word that it waits, where that is new, or the end of its patience."""
        ordered = self._line(line_of(request))
        if (too_long := may_wait(request, ordered, self._settings, self._now())) is not None:
            return [_rejected(request, Refused(too_long.code, f"{why.message} {too_long.message}", too_long.remedy))]
        here = next((number for number, each in enumerate(ordered, 1) if each.session == request.session), None)
        stands_at = here or len(ordered) + 1
        if place == stands_at:
            return []
        return [
            StartWaiting(
                hub=request.hub,
                system=request.system,
                session=request.session,
                place_in_queue=stands_at,
                reason=why.message[:1024],
            )
        ]


def _full(full: Full) -> Refused:
    return Refused("quota-full", full.message, full.remedy)


def _rejected(request: StartRequested, refused: Refused, step_up: StepUp | None = None) -> StartRejected:
    return StartRejected(
        hub=request.hub,
        system=request.system,
        session=request.session,
        code=refused.code,
        message=refused.message[:1024],
        remedy=refused.remedy[:1024],
        step_up=step_up,
    )
