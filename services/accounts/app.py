"""Builds the accounts service: the only place that constructs its parts. Judges nothing itself."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence

import msgspec
import structlog
from aiohttp import web

from schemas.access import AccessChanged, AccessRecord
from schemas.base import SystemName, UserName
from schemas.lifecycle import Ended, NotStarted, Requested, Withdrawn
from schemas.session import SessionEvent, StartAdmitted, StartRejected, StartRequested
from schemas.subjects import Subjects, slug
from schemas.system import SystemDrained, SystemResumed
from services._runtime.connection import Broker
from services._runtime.errors import TransientError
from services._runtime.identity import Stamp
from services._runtime.log import Bucket, ConflictError, Log, Recorded, Subscription
from services._runtime.service import stamp_of
from services._runtime.session_service import SessionService
from services._runtime.settings import Configuration
from services._runtime.systems import System
from services._runtime.tasks import end
from services.accounts.decide import CONSUMES, Admit, Command, Release, decide, give_up, obey
from services.accounts.entitlements import Refused, Rules, judge
from services.accounts.ledger import Ledger
from services.accounts.settings import AccountsSettings, access_record, accounts_settings

_log = structlog.get_logger("farlab.accounts")


def build(configuration: Configuration, broker: Broker) -> AccountsApp:
    """The service, from its configuration and an open broker. Raises ConfigurationError."""
    return AccountsApp(
        log=broker.log,
        access=broker.access,
        subjects=configuration.subjects,
        stamp=stamp_of(configuration, "accounts"),
        systems=configuration.systems,
        settings=accounts_settings(configuration),
    )


class AccountsApp:
    """Admission, quotas, and the read model of who may use what."""

    def __init__(
        self,
        *,
        log: Log,
        access: Bucket,
        subjects: Subjects,
        stamp: Stamp,
        systems: dict[SystemName, System],
        settings: AccountsSettings,
    ) -> None:
        self._log = log
        self._bucket = access
        self._subjects = subjects
        self._stamp = stamp
        self._settings = settings
        self._systems = systems
        self._access: dict[UserName, AccessRecord] = {
            UserName(user.name): access_record(user) for user in settings.users
        }
        self._drained: dict[SystemName, str] = {}
        self.ledger = Ledger(log, subjects, stamp, settings.quotas)
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
        self._subscriptions: list[Subscription] = []
        self._reconciler: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Publishes who may use what, reads quotas and systems, then takes starts."""
        for user, record in self._access.items():
            await self._publish_access(user, record)
        self._subscriptions.append(await self.ledger.follow())
        self._subscriptions.append(
            await self._log.follow("SYSTEMS", [self._subjects.family("system")], self._take_system)
        )
        await self.sessions.start()
        self._reconciler = asyncio.create_task(self._reconcile_for_ever())

    async def close(self) -> None:
        """Finishes what is in hand."""
        if self._reconciler is not None:
            await end([self._reconciler])
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
            case Admit(request=request):
                return [await self._admit(request)]
            case Release(request=request):
                await self.ledger.release(request.session)
                return []

    async def _admit(self, request: StartRequested) -> StartAdmitted | StartRejected:
        verdict = judge(request, Rules(self._systems, self._access, self._drained))
        if isinstance(verdict, Refused):
            return _rejected(request, verdict.code, verdict.message, verdict.remedy)
        full = await self.ledger.reserve(request)
        if full is not None:
            return _rejected(request, "quota-full", full.message, full.remedy)
        return StartAdmitted(
            hub=request.hub, system=request.system, session=request.session, site_identity=verdict.site_identity
        )

    def _take_system(self, recorded: Recorded) -> None:
        match recorded.message:
            case SystemDrained(system=system, reason=reason):
                self._drained[system] = reason
            case SystemResumed(system=system):
                self._drained.pop(system, None)
            case _:
                pass

    async def _publish_access(self, user: UserName, record: AccessRecord) -> None:
        key = slug(user)
        value = msgspec.json.encode(record)
        entry = await self._bucket.get(key)
        if entry is not None and entry[0] == value:
            return
        subject = self._subjects.access_changed(user)
        history = await self._log.history("ACCESS", subject)
        after = history[-1].sequence if history else 0
        changed = self._stamp(AccessChanged(user=user, record=record, reason="configuration"), after=after, cause=None)
        with contextlib.suppress(ConflictError):  # another replica says the same
            await self._log.append("ACCESS", subject, changed, scope=subject, after=after)
        await self._bucket.put(key, value)

    async def _reconcile_for_ever(self) -> None:
        while True:
            try:
                await self.reconcile()
            except TransientError as error:
                _log.info("reconciliation waits", reason=error.reason)
            except Exception:
                _log.exception("reconciliation failed")
            await asyncio.sleep(self._settings.reconcile_seconds)

    async def reconcile(self) -> None:
        """Closes what a crash left open: shares of ended sessions, starts nobody judged, ends nobody wrote."""
        for session, placed in self.sessions.view.live():
            if isinstance(placed.state, Requested | Withdrawn):
                await self.sessions.consumer.nudge(session)
        for session in self.ledger.holders():
            known = self.sessions.view.get(session)
            if known is None or isinstance(known.state, Ended | NotStarted):
                await self.sessions.consumer.nudge(session)


def _rejected(request: StartRequested, code: str, message: str, remedy: str) -> StartRejected:
    return StartRejected(
        hub=request.hub,
        system=request.system,
        session=request.session,
        code=code,
        message=message[:1024],
        remedy=remedy[:1024],
    )
