"""The other services as the hub bridge sees them: their events, in order, on any log, and a tiny server per session.

Omits everything they do: nothing is admitted by rule, no job runs, no tunnel is dug. A session waits in the queue of
its site while `queue` is closed.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Iterable, Sequence

import msgspec
from aiohttp import web

from schemas.access import AccessRecord, AccountAccess, ProjectAccess, SystemAccess
from schemas.base import SessionId, SystemName, UserName
from schemas.lifecycle import (
    Admitted,
    Cancelling,
    Created,
    Listening,
    Rejected,
    Requested,
    SessionState,
    Stopping,
    Submitted,
    Withdrawn,
)
from schemas.session import (
    AnySessionEvent,
    HpcPlace,
    JobCreated,
    JobStatusChanged,
    JobSubmitted,
    ProgressReported,
    Queued,
    ServerListening,
    SessionEnded,
    SessionEvent,
    StartAdmitted,
    StartRejected,
    StartRequested,
    TunnelReady,
)
from schemas.subjects import Subjects, slug
from services._runtime.consumer import SessionConsumer
from services._runtime.decider import Emit, Perform
from services._runtime.errors import PermanentError
from services._runtime.log import Bucket, Log, Recorded
from services._runtime.view import SessionView
from tests.support.samples import stamp

REFUSED = "zbroke"
"""The project that is refused."""


def access_record(user: str) -> AccessRecord:
    """What each user may use: one account on demo-hpc, with two projects."""
    projects = [ProjectAccess(name="ztrain"), ProjectAccess(name=REFUSED)]
    accounts = [AccountAccess(name=f"{slug(user)[:20]}1", projects=projects)]
    return AccessRecord(user=UserName(user), systems=[SystemAccess(system=SystemName("demo-hpc"), accounts=accounts)])


async def give_access(bucket: Bucket, users: Iterable[str]) -> None:
    """Writes the read model as the accounts service does."""
    for user in users:
        await bucket.put(slug(user), msgspec.json.encode(access_record(user)))


class UserServer:
    """A server of a user: answers everything under its base URL, and says which session it is."""

    def __init__(self, request: StartRequested) -> None:
        self.request = request
        self.port = 0
        self.answering = True
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)

    async def _answer(self, request: web.Request) -> web.Response:
        if not self.answering:
            return web.Response(status=503)
        headers = {"X-JupyterHub-Version": "6.1.1"}
        return web.json_response({"session": self.request.session, "port": self.port}, headers=headers)

    async def start(self, tls: ssl.SSLContext | None) -> int:
        """Listens on a free port and returns it."""
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0, reuse_address=True, ssl_context=tls)
        await site.start()
        self.port = int(self._runner.addresses[0][1])
        return self.port

    async def close(self) -> None:
        """Stops listening."""
        await self._runner.cleanup()


class Others:
    """Accounts, launcher and tunneler in a few lines."""

    def __init__(self, log: Log, subjects: Subjects | None = None) -> None:
        self.log = log
        self.subjects = subjects or Subjects()
        self.queue = asyncio.Event()
        self.queue.set()
        self.servers: dict[SessionId, list[UserServer]] = {}
        self.view = SessionView()
        self.story: dict[SessionId, list[AnySessionEvent]] = {}
        self.tls: Callable[[SessionId], Awaitable[ssl.SSLContext]] | None = None
        self._bell = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self.consumer: SessionConsumer[None] = SessionConsumer(
            log=log,
            subjects=self.subjects,
            view=self.view,
            stamp=stamp("others"),
            decide=decide,
            perform=_nothing,
            give_up=_nothing_either,
        )

    async def start(self) -> None:
        """Begins to play."""
        self.view.watch(self._take)
        self._following = await self.view.follow(self.log, [self.subjects.sessions()])

    async def close(self) -> None:
        """Stops playing, and every server."""
        await self._following.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for servers in self.servers.values():
            for server in servers:
                await server.close()

    def sessions(self, user: str, server_name: str = "") -> list[SessionId]:
        """All sessions a user's server ever had, oldest first."""
        found = []
        for session, events in self.story.items():
            first = events[0]
            if isinstance(first, StartRequested) and (first.user, first.server_name) == (user, server_name):
                found.append(session)
        return found

    def names(self, session: SessionId) -> list[str]:
        """The types of a session's events."""
        return [type(event).__name__ for event in self.story[session]]

    def state(self, session: SessionId) -> SessionState:
        """A session's state."""
        known = self.view.get(session)
        assert known is not None
        return known.state

    async def until(self, user: str, *wanted: type, server_name: str = "", seconds: float = 20) -> SessionId:
        """Waits until the newest session of a user's server is in one of the wanted states."""
        async with asyncio.timeout(seconds):
            while True:
                sessions = self.sessions(user, server_name)
                if sessions and isinstance(self.state(sessions[-1]), wanted):
                    return sessions[-1]
                await self._bell.wait()

    async def record(self, event: SessionEvent) -> bool:
        """Appends an event, whoever would."""
        return await self.consumer.record(event)

    async def move(self, session: SessionId) -> UserServer:
        """The tunnel of a session leads somewhere else from now on; the old place stops answering."""
        old = self.servers[session][-1]
        new = await self._serve(old.request)
        generation = len(self.servers[session])
        assert await self.record(_tunnel(old.request, new, generation))
        old.answering = False
        return new

    async def end(self, session: SessionId, **changes: object) -> None:
        """The job ends by itself."""
        state = self.state(session)
        assert await self.record(_ended(state.request, **changes))  # type: ignore[union-attr]

    def _take(self, recorded: Recorded, before: SessionState, after: SessionState) -> None:
        event = recorded.message
        assert isinstance(event, SessionEvent)
        self.story.setdefault(event.session, []).append(event)  # type: ignore[arg-type]
        self._bell.set()
        self._bell = asyncio.Event()
        self._go(self.consumer.nudge(event.session))
        if isinstance(event, JobSubmitted) and isinstance(after, Submitted):
            self._go(self._run(after.request))

    def _go(self, work: object) -> None:
        task = asyncio.ensure_future(work)  # type: ignore[arg-type]
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, request: StartRequested) -> None:
        common = _common(request)
        await self.record(JobStatusChanged(job_status=Queued(place_in_queue=3), words="PENDING", **common))
        await self.queue.wait()
        await self.record(ProgressReported(percent=50, message="Loading <b>modules</b>", **common))
        server = await self._serve(request)
        if await self.record(ServerListening(host="127.30.0.11", port=9000, **common)):
            await self.record(_tunnel(request, server, 1))

    async def _serve(self, request: StartRequested) -> UserServer:
        server = UserServer(request)
        await server.start(None if self.tls is None else await self.tls(request.session))
        self.servers.setdefault(request.session, []).append(server)
        return server


def decide(state: SessionState, event: AnySessionEvent | None) -> Sequence[Emit | Perform[None]]:
    """What the others say next, by the state alone."""
    match state:
        case Requested(request=request):
            common = _common(request)
            if isinstance(request.place, HpcPlace) and request.place.project == REFUSED:
                return [
                    Emit(
                        StartRejected(
                            code="no-budget", message="The <i>budget</i> is used up.", remedy="Ask.", **common
                        )
                    )
                ]
            return [Emit(StartAdmitted(site_identity="CN=Ada", **common))]
        case Rejected(request=request, rejection=rejection):
            return [Emit(_ended(request, outcome="rejected", reason=rejection.message, remedy=rejection.remedy))]
        case Admitted(request=request):
            return [Emit(JobCreated(job=f"job-of-{request.session}", **_common(request)))]
        case Created(request=request):
            return [Emit(JobSubmitted(**_common(request)))]
        case Withdrawn(request=request) | Cancelling(request=request) | Stopping(request=request):
            return [Emit(_ended(request))]
        case _:
            return []


def _common(request: StartRequested) -> dict[str, object]:
    return {"hub": request.hub, "system": request.system, "session": request.session}


def _tunnel(request: StartRequested, server: UserServer, generation: int) -> TunnelReady:
    return TunnelReady(host="127.0.0.1", port=server.port, generation=generation, **_common(request))  # type: ignore[arg-type]


def _ended(request: StartRequested, **changes: object) -> SessionEnded:
    said: dict[str, object] = {"outcome": "stopped", "reason": "stopped", **_common(request), **changes}
    return SessionEnded(**said)  # type: ignore[arg-type]


async def _nothing(_command: None) -> list[SessionEvent]:
    return []


def _nothing_either(_state: SessionState, _error: PermanentError) -> list[Emit | Perform[None]]:
    return []


__all__ = ["Listening", "Others", "UserServer", "access_record", "give_access"]
