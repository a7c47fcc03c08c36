"""The accounts service, its parts at work together. Judges nothing itself."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import NamedTuple

import structlog
from aiohttp import web

from schemas.access import AccessRecord
from schemas.acts import LimitRequested
from schemas.base import SystemName
from schemas.lifecycle import (
    Admitted,
    Ended,
    NotStarted,
    Requested,
    SessionState,
    Stopping,
    Waiting,
    Withdrawn,
    WithJob,
)
from schemas.quota import QuotaUpdated, Reserved
from schemas.session import (
    SessionEvent,
    StartRequested,
    StopRequested,
)
from schemas.subjects import Subjects
from schemas.system import SystemDrained, SystemResumed
from services._runtime.clouds import CatalogueEntry, CloudSystem
from services._runtime.errors import TransientError
from services._runtime.identity import Stamp
from services._runtime.leases import Lease
from services._runtime.log import Log, Recorded, Subscription
from services._runtime.service import utc_now
from services._runtime.session_service import SessionService
from services._runtime.systems import cores_of
from services._runtime.tasks import end
from services.accounts.access import AccessBook
from services.accounts.admission import lost_right
from services.accounts.admit import Admission
from services.accounts.clouds import cores_of_cloud
from services.accounts.decide import CONSUMES, Admit, Command, Release, decide, give_up, obey
from services.accounts.ledger import Ledger
from services.accounts.pull import PullSource
from services.accounts.second_factor import TooWeak, too_weak
from services.accounts.settings import AccountsSettings
from services.accounts.sign_ins import SignInDesk

_log = structlog.get_logger("farlab.accounts")


class Pull(NamedTuple):
    """The source of rights, and the lease by which one replica asks it."""

    lease: Lease
    source: PullSource


class AccountsApp:
    """Admission, quotas, and the read model of who may use what."""

    def __init__(
        self,
        *,
        book: AccessBook,
        log: Log,
        subjects: Subjects,
        stamp: Stamp,
        systems: dict[SystemName, CatalogueEntry],
        settings: AccountsSettings,
        desk: SignInDesk | None = None,
        pull: Pull | None = None,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self._desk = desk
        self._pull = pull
        self._now = now
        self._log = log
        self._book = book
        self._subjects = subjects
        self._settings = settings
        self._systems = systems
        self._limits: dict[tuple[str, str, str, str], LimitRequested] = {}
        self.ledger = Ledger(log, subjects, stamp, settings.quotas, self._cores_of)
        self.ledger.watch(self._quota_changed)
        self.sessions: SessionService[Command] = SessionService(
            service="accounts",
            log=log,
            subjects=subjects,
            stamp=stamp,
            decide=decide,
            perform=self.perform,
            give_up=give_up,
            obey=obey,
            consumes=CONSUMES,
        )
        self.admission = Admission(
            systems=systems,
            book=book,
            ledger=self.ledger,
            view=self.sessions.view,
            too_weak=self._too_weak,
            waiting=settings.waiting,
            now=stamp.now,
        )
        self.sessions.view.watch(self.admission.observe)
        self.sessions.view.watch(self._session_changed)
        self._subscriptions: list[Subscription] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._look = asyncio.Event()

    async def start(self) -> None:
        """Publishes who may use what, reads quotas and systems, then takes starts."""
        self._subscriptions.append(await self._book.start())
        self._book.watch(self._rights_changed)
        self._subscriptions.append(await self.ledger.follow())
        limits = self._subjects.acts("accounts", LimitRequested)
        self._subscriptions.append(await self._log.follow("ACTS", [limits], self._take_limit))
        self._subscriptions.append(
            await self._log.follow("SYSTEMS", [self._subjects.family("system")], self._take_system)
        )
        await self.sessions.start()
        if self._desk is not None:
            await self._desk.start()
        self._tasks.append(asyncio.create_task(self._reconcile_for_ever()))
        if self._pull is not None:
            self._tasks.append(asyncio.create_task(self._pull.lease.keep(_no_matter)))
            self._tasks.append(asyncio.create_task(self._pull.source.run()))

    async def close(self) -> None:
        """Finishes what is in hand."""
        await end(self._tasks)
        if self._pull is not None:
            await self._pull.source.close()
            await self._pull.lease.release()
        if self._desk is not None:
            await self._desk.close()
        await self.sessions.close()
        while self._subscriptions:
            await self._subscriptions.pop().close()

    def problems(self) -> Sequence[str]:
        """Nothing but the broker can keep accounts from working."""
        return []

    def routes(self) -> Sequence[web.RouteDef]:
        """None of its own."""
        return []

    async def perform(self, command: Command) -> Sequence[SessionEvent]:
        """Carries out a command; the facts that came of it."""
        match command:
            case Admit(request=request, place=place):
                return await self.admission.admit(request, place)
            case Release(request=request, use=use):
                await self.ledger.release(request.session, use)
                return []

    async def _too_weak(self, request: StartRequested) -> TooWeak | None:
        """By the system's rule, then by the organisation's."""
        system = self._systems[request.system]
        organisation = next((each for each in self._settings.organisations if each.name == request.vo), None)
        rules = [(system.second_factor, system.title)]
        if organisation is not None:
            rules.append((organisation.second_factor, organisation.title or organisation.name))
        wanted = [(rule, what) for rule, what in rules if rule is not None]
        if not wanted:
            return None
        authentication = None
        if self._desk is not None:
            authentication = await self._desk.authentication(request.user, request.sign_in)
        weak = (too_weak(rule, what, authentication, self._now()) for rule, what in wanted)
        return next((each for each in weak if each is not None), None)

    def _cores_of(self, request: StartRequested) -> int:
        system = self._systems.get(request.system)
        if isinstance(system, CloudSystem):
            return cores_of_cloud(system, request.place)
        return cores_of(system, request.place, request.resources)

    def _rights_changed(self, _record: AccessRecord) -> None:
        self._look.set()

    def _quota_changed(self, event: QuotaUpdated) -> None:
        if not isinstance(event.change, Reserved):
            self._look.set()

    def _session_changed(self, _recorded: Recorded, before: SessionState, after: SessionState) -> None:
        """Where somebody left the line, the others move up."""
        if isinstance(before, Waiting) and not isinstance(after, Waiting):
            self._look.set()

    def _take_limit(self, recorded: Recorded) -> None:
        act = recorded.message
        if isinstance(act, LimitRequested):
            self._limits[act.vo, act.system, act.resource, act.of] = act
            self._look.set()

    def _take_system(self, recorded: Recorded) -> None:
        match recorded.message:
            case SystemDrained(system=system, reason=reason):
                self.admission.drained[system] = reason
            case SystemResumed(system=system):
                self.admission.drained.pop(system, None)
                self._look.set()
            case _:
                pass

    async def _reconcile_for_ever(self) -> None:
        while True:
            try:
                await self.reconcile()
            except TransientError as error:
                _log.info("reconciliation waits", reason=error.reason)
            except Exception:
                _log.exception("reconciliation failed")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._settings.reconcile_seconds):
                    await self._look.wait()
            self._look.clear()

    async def reconcile(self) -> None:
        """Closes what a crash left open: shares of ended sessions, starts nobody judged, ends nobody wrote.

        It also sets the limits operators asked for, gives those who wait their turns and, where policy says so, stops
        sessions whose user lost the right to their place.
        """
        for act in list(self._limits.values()):
            await self.ledger.obey(act)
        for session, placed in self.sessions.view.live():
            if isinstance(placed.state, Requested | Withdrawn):
                await self.sessions.consumer.nudge(session)
        for session in self.ledger.holders():
            known = self.sessions.view.get(session)
            if known is None or isinstance(known.state, Ended | NotStarted):
                await self.sessions.consumer.nudge(session)
        for session in self.admission.turns():
            await self.sessions.consumer.nudge(session)
        if self._settings.when_rights_end == "stop":
            await self._stop_those_without_right()

    async def _stop_those_without_right(self) -> None:
        for _, placed in self.sessions.view.live():
            if not isinstance(placed.state, Admitted | WithJob) or isinstance(placed.state, Stopping):
                continue
            request = placed.state.request
            lost = lost_right(request, self._book.records.get(request.user), self._systems.get(request.system))
            if lost:
                stop = StopRequested(
                    hub=request.hub, system=request.system, session=request.session, by="accounts", reason=lost
                )
                await self.sessions.consumer.record(stop)


def _no_matter(_held: bool) -> None:
    """The source asks the lease itself."""
