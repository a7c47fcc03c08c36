"""What all spawners of a hub share: one connection to the event log, the sessions, the vault. Starts no server itself.

It is attached to the running JupyterHub application, made when the first spawner needs it, and closed with the hub's
loop. Until the event log answers, whoever asks for it waits: an unreachable log is not taken for a dead server.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

import msgspec
import structlog

from schemas.access import AccessRecord
from schemas.base import HubName, SessionId, SystemName
from schemas.lifecycle import Ended, NotStarted, Ready, SessionState
from schemas.session import AnySessionEvent, CloudPlace, StartRequested, StopRequested, TunnelReady
from schemas.subjects import slug
from services._runtime import connection
from services._runtime.configuration import ConfigurationError
from services._runtime.errors import PermanentError, TransientError
from services._runtime.identity import Stamp
from services._runtime.log import Bucket, Log
from services._runtime.rpc import Rpc
from services._runtime.service import stamp_of, utc_now
from services._runtime.settings import Configuration, load
from services._runtime.tasks import end
from services._runtime.tracing import start_traces
from services._runtime.vault import KeyFileError, Vault
from services.hub_bridge.notices import NoticeBoard
from services.hub_bridge.offer import Offer, offer
from services.hub_bridge.progress import Message
from services.hub_bridge.quotas import QuotaBoard
from services.hub_bridge.secrets import SERVICE, HubSecrets
from services.hub_bridge.sessions import ENDING, Sessions
from services.hub_bridge.settings import HubBridgeSettings
from services.hub_bridge.sign_ins import SignIns

ATTACHED_AS = "farlab_bridge"
RETRY_SECONDS = 1.0
ON_ITS_WAY_SECONDS = 5.0
"""How long a hub waits before it clears away after its former life, of which something may still be on its way."""
USED_NEWS = timedelta(seconds=20)
"""Activity that is no more recent than this is not worth a word."""
_LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)
WENT_BACK_CODE = 70
"""The hub's exit code when the event log is older than what it read from it."""

_log = structlog.get_logger("farlab.hub_bridge")


class Broker(Protocol):
    """What the bridge needs of the event log's connection."""

    @property
    def log(self) -> Log:
        """The event log."""

    @property
    def vault(self) -> Bucket:
        """Sealed secrets."""

    @property
    def access(self) -> Bucket:
        """Who may use what."""

    @property
    def activity(self) -> Bucket:
        """When sessions were last used."""

    @property
    def rpc(self) -> Rpc:
        """Questions to other services."""

    async def close(self) -> None:
        """Ends the connection."""


class Attached(Protocol):
    """A spawner, as the bridge tells it what happened to its session."""

    async def ended(self) -> None:
        """The session is over."""

    async def moved(self, tunnel: TunnelReady) -> None:
        """The server is reached at another place."""


class _Parts(msgspec.Struct, frozen=True):
    sessions: Sessions
    vault: Vault
    access: Bucket
    activity: Bucket
    sign_ins: SignIns
    quotas: QuotaBoard
    notices: NoticeBoard


Connect = Callable[[Configuration, str], Awaitable[Broker]]
OpenVault = Callable[[Bucket, Path, str], Vault]


def end_process(how: str) -> None:
    """Ends the hub at once, as a kill would, which disturbs nobody who is in: its memory of sessions is wrong."""
    _log.error("the event log went back to an older state; the hub ends, to be started again on it", how=how)
    os._exit(WENT_BACK_CODE)


class Bridge:
    """One hub's side of the event log."""

    def __init__(
        self,
        configuration: Configuration,
        connect: Connect = connection.connect,
        open_vault: OpenVault = Vault,
        now: Callable[[], datetime] = utc_now,
        end_process: Callable[[str], None] = end_process,
    ) -> None:
        self.configuration = configuration
        self.settings = configuration.section("hub_bridge", HubBridgeSettings)
        self.hub: HubName = configuration.shared.installation.hub
        shared = configuration.shared
        self._send_last_spans = start_traces(shared.traces, SERVICE, shared.installation.prefix)
        self.now = now
        self._connect = connect
        self._open_vault = open_vault
        self._end_process = end_process
        self._stamp: Stamp = stamp_of(configuration, SERVICE, now)
        self._spawners: dict[SessionId, Attached] = {}
        self._disowned: set[SessionId] = set()
        self._used: dict[SessionId, datetime] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._open = asyncio.Event()
        self._parts: _Parts | None = None
        self.begin(self._run())

    @classmethod
    def of(cls, settings: dict[str, Any], file: Path) -> Bridge:
        """The bridge attached to an application's settings, made now if there is none. Needs the running loop."""
        bridge = settings.get(ATTACHED_AS)
        if not isinstance(bridge, cls):
            bridge = settings[ATTACHED_AS] = cls(load(file))
        return bridge

    @property
    def sessions(self) -> Sessions:
        """This hub's sessions. Only after `opened`."""
        return self._opened().sessions

    @property
    def vault(self) -> Vault:
        """The vault, opened with the hub bridge's key. Only after `opened`."""
        return self._opened().vault

    @property
    def sign_ins(self) -> SignIns:
        """The sign-ins at this hub. Only after `opened`."""
        return self._opened().sign_ins

    @property
    def quotas(self) -> QuotaBoard:
        """What is used of quotas. Only after `opened`."""
        return self._opened().quotas

    @property
    def notices(self) -> NoticeBoard:
        """What users are told of systems. Only after `opened`."""
        return self._opened().notices

    def _opened(self) -> _Parts:
        if self._parts is None:
            raise TransientError("the event log has not answered yet")
        return self._parts

    async def opened(self, within_seconds: float | None = None) -> None:
        """Returns when every session of this hub is known. Raises TransientError when that takes longer than told."""
        try:
            async with asyncio.timeout(within_seconds):
                await self._open.wait()
        except TimeoutError:
            raise TransientError(f"the event log did not answer within {within_seconds:g} s") from None

    async def offer(self, user: str) -> Offer:
        """What a user may choose from now. Raises TransientError."""
        await self.opened(self.settings.broker_seconds)
        entry = await self._opened().access.get(slug(user))
        record = msgspec.json.decode(entry[0], type=AccessRecord) if entry is not None else None
        now = self.now()
        open_to = offer(self.configuration.systems, record, now, self.configuration.clouds)
        names = {name for each in open_to.organisations.values() for name in (*each.systems, *each.clouds)}
        return msgspec.structs.replace(open_to, notices=self.notices.texts(names, now))

    def notice(self, system: str) -> Message | None:
        """What there is to know of a system, for the page of a start. Raises TransientError."""
        return self.notices.message(system, self.title(system), self.now())

    def title(self, system: str) -> str:
        """A system's name as people know it."""
        known = self.configuration.catalogue.get(SystemName(system))
        return system if known is None else known.title

    async def used(self, session: SessionId, at: datetime | None) -> None:
        """Says when a session on a cloud was last used, where that is news; its launcher ends what nobody uses.

        Never raises: the next time is soon enough.
        """
        state = self.sessions.state(session)
        if at is None or not isinstance(state, Ready) or not isinstance(state.request.place, CloudPlace):
            return
        at = at if at.tzinfo is not None else at.replace(tzinfo=UTC)
        if at > self._used.get(session, _LONG_AGO) + USED_NEWS:
            try:
                await self._opened().activity.put(session, at.isoformat().encode())
                self._used[session] = at
            except TransientError as error:
                _log.info("activity not told", session=session, reason=error.reason)

    def attach(self, session: SessionId, spawner: Attached) -> None:
        """Tells `spawner` from now on what happens to the session."""
        self._spawners[session] = spawner

    def detach(self, session: SessionId | None) -> None:
        """The session's spawner is gone."""
        if session is not None:
            self._spawners.pop(session, None)

    def disown(self, request: StartRequested) -> None:
        """Nobody waits for this start any more, and whether it came into the log is not known: if it did, it stops."""
        self.detach(request.session)
        self._disowned.add(request.session)
        self.begin(self._forget(request.session))

    def seconds_left(self, session: SessionId) -> float:
        """How long a session's start may still take; 0 after its deadline. Raises TransientError without a session."""
        state = self.sessions.state(session)
        if isinstance(state, NotStarted):
            raise TransientError(f"the session {session} is not in the log")
        return max((state.request.deadline - self.now()).total_seconds(), 0.0)

    def begin(self, work: Coroutine[Any, Any, None]) -> None:
        """Lets work go on by itself; what goes wrong in it is logged."""
        self.task(work).add_done_callback(_log_failure)

    def task(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Work that someone waits for, and that ends with the bridge."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def close(self) -> None:
        """Ends all work and the connection. The hub's own end does the same by cancelling every task."""
        await end(self._tasks)
        await asyncio.to_thread(self._send_last_spans)

    async def _run(self) -> None:
        broker = await self._connected()
        sessions = Sessions(broker.log, self.configuration.subjects, self._stamp, self.hub)
        quotas = QuotaBoard(broker.log, self.configuration.subjects)
        notices = NoticeBoard(broker.log, self.configuration.subjects)
        try:
            vault = self._open_vault(broker.vault, self.configuration.keys_folder, SERVICE)
            await _until_it_works(sessions.start)
            await _until_it_works(quotas.start)
            await _until_it_works(notices.start)
            sign_ins = SignIns(
                log=broker.log,
                rpc=broker.rpc,
                vault=vault,
                subjects=self.configuration.subjects,
                stamp=self._stamp,
                hub=self.hub,
            )
            self._parts = _Parts(sessions, vault, broker.access, broker.activity, sign_ins, quotas, notices)
            sessions.watch(self._watch)
            self._open.set()
            self.begin(self._sweep_later())
            self._end_process(await broker.log.past_changed())
        finally:
            self._parts = None
            self._open.clear()
            await sessions.close()
            await quotas.close()
            await notices.close()
            await broker.close()

    async def _connected(self) -> Broker:
        while True:
            try:
                return await self._connect(self.configuration, SERVICE)
            except (TransientError, ConfigurationError, KeyFileError) as error:
                _log.warning("the event log cannot be reached; trying on", reason=str(error))
            await asyncio.sleep(RETRY_SECONDS)

    def _watch(self, event: AnySessionEvent, state: SessionState) -> None:
        spawner = self._spawners.get(event.session)
        if isinstance(event, StartRequested) and event.session in self._disowned:
            self.begin(self.withdraw(event, "The start was given up because the event log did not answer."))
        if isinstance(state, Ended):
            self._used.pop(event.session, None)
            self.begin(self._forget(event.session))
            if spawner is not None:
                self.begin(spawner.ended())
        elif isinstance(state, Ready) and isinstance(event, TunnelReady) and spawner is not None:
            self.begin(spawner.moved(event))

    async def withdraw(self, request: StartRequested, reason: str) -> None:
        """Asks in the hub's own name for the end of a session, until the log has taken it."""
        stop = StopRequested(
            hub=self.hub, system=request.system, session=request.session, by=f"hub {self.hub}", reason=reason
        )
        await _until_it_works(lambda: self.sessions.record(stop))

    async def _forget(self, session: SessionId) -> None:
        await _until_it_works(lambda: self.vault.forget(session))

    async def _sweep_later(self) -> None:
        await asyncio.sleep(ON_ITS_WAY_SECONDS)
        await _until_it_works(self.sweep)

    async def sweep(self) -> None:
        """Deletes secrets of this hub's sessions that are over or never came to be: what a killed hub left behind."""
        for name in await self.vault.names():
            session, _, recipient = name.partition(".")
            if recipient == SERVICE and await self._is_over(SessionId(session)):
                await self.vault.forget(SessionId(session))

    async def _is_over(self, session: SessionId) -> bool:
        state = self.sessions.state(session)
        if isinstance(state, Ended):
            return True
        if not isinstance(state, NotStarted) or session in self._spawners:
            return False
        try:
            return (await self.vault.open(session, HubSecrets)).hub == self.hub
        except PermanentError:
            return False

    async def unheld(self) -> AsyncIterator[StartRequested]:
        """The live sessions of this hub that no spawner holds, then for ever those that appear.

        What an earlier life of the hub asked for may come into the log when this one has long read it.
        """
        found: asyncio.Queue[StartRequested] = asyncio.Queue()
        self.sessions.watch(lambda event, _: found.put_nowait(event) if isinstance(event, StartRequested) else None)
        for _, at in self.sessions.view.live():
            if not isinstance(at.state, NotStarted):
                found.put_nowait(at.state.request)
        while True:
            request = await found.get()
            state = self.sessions.state(request.session)
            held = request.session in self._spawners or request.session in self._disowned
            if not held and not isinstance(state, NotStarted | Ended | ENDING):
                yield request


def _log_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.error("work of the hub bridge failed", exc_info=error)


async def _until_it_works(work: Callable[[], Awaitable[object]]) -> None:
    while True:
        try:
            await work()
            return
        except TransientError as error:
            _log.info("the event log does not answer; trying on", reason=error.reason)
        await asyncio.sleep(RETRY_SECONDS)
