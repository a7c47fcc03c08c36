"""What the services' requests do at ledger, site and tunnels, in a few lines each. Decides nothing.

Each is a generator that stops where another may come in between, and may lose its answer after it did its part.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field
from random import Random
from typing import Any

from schemas import lifecycle
from schemas.base import SessionId
from schemas.lifecycle import NOT_STARTED, Ended, SessionState, WithJob
from schemas.session import JobCreated, JobSubmitted, SessionEnded, StartAdmitted, StartRejected, StopRequested
from services._launching.ends import DEADLINE_PASSED, stopped
from services._runtime.errors import PermanentError, TransientError
from services.accounts import decide as accounts_decide
from services.cloud_launcher import decide as cloud_decide
from services.cloud_launcher.ports import PodName
from services.hpc_launcher import decide as hpc_decide
from services.tunneler import decide as tunneler_decide
from tests.support.samples import Story

Facts = Generator[None, None, list[Any]]


@dataclass(eq=False)
class Job:
    """What the site has: inert, live or over."""

    name: str
    session: SessionId
    phase: str = "inert"
    listens: bool = False


@dataclass
class Held:
    """A session: its states, one after each event, and what it needs."""

    story: Story
    states: list[SessionState] = field(default_factory=lambda: [NOT_STARTED])
    secret: bool = True
    share: bool = False

    @property
    def state(self) -> SessionState:
        return self.states[-1]


class Effects:
    """The world outside the log."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.violations: list[str] = []
        self.calm = False
        self.late = False
        self.cloud = self.random.random() < 0.3
        self.limit = self.random.choice((1, 2))
        self.held: dict[SessionId, Held] = {}
        for number in range(self.random.choice((1, 1, 2))):
            session = SessionId(f"{number + 1:026d}")
            self.held[session] = Held(Story(session, user=f"user{number}"))
        self.jobs: list[Job] = []
        self.made = 0

    def _answer(self) -> None:
        """Whether a request's answer comes: what it did is done all the same."""
        if not self.calm and self.random.random() < 0.05:
            raise TransientError("no answer")

    def at_accounts(self, command: Any) -> Facts:
        held = self.held[command.request.session]
        yield
        if isinstance(command, accounts_decide.Release):
            held.share = False
            return []
        others = sum(each.share for each in self.held.values() if each is not held)
        if not held.share and others >= self.limit:
            rejection = StartRejected(**self.place(command.request), code="quota-full", message="full", remedy="wait")
            return [rejection]
        if not isinstance(held.state, Ended):
            held.share = True
        yield
        self._answer()
        return [StartAdmitted(**self.place(command.request), site_identity="CN=Ada")]

    def on_hpc(self, command: Any) -> Facts:
        request = command.request
        match command:
            case hpc_decide.CreateJob():
                return (yield from self._make(request))
            case hpc_decide.SubmitJob(job=job):
                return (yield from self._submit(request, job))
            case hpc_decide.EndJob(job=job, stop=stop):
                return (yield from self._end(request, job, stop, hpc_decide.LAUNCHER))
            case hpc_decide.ClearAway(job=job):
                return (yield from self._clear(request, job))
            case _:
                yield
                self.remove(command.job)
                return []

    def on_cloud(self, command: Any) -> Facts:
        request = command.request
        match command:
            case cloud_decide.MakePod():
                return (yield from self._make(request))
            case cloud_decide.OpenPod(pod=pod):
                return (yield from self._submit(request, pod.job))
            case cloud_decide.EndPod(pod=pod, stop=stop):
                found = pod.job if pod is not None else next((job.name for job in self.of(request.session)), "")
                return (yield from self._end(request, found, stop, cloud_decide.LAUNCHER))
            case cloud_decide.ClearAway(pod=pod):
                return (yield from self._clear(request, pod.job if pod is not None else ""))
            case _:
                raise AssertionError(command)

    def _make(self, request: Any) -> Facts:
        """Looks for a job with the session's mark, else makes one; a pod's name is its session's, so there is one."""
        yield
        if not self.held[request.session].secret:
            raise PermanentError("secrets-gone", "gone", "")
        found = self.of(request.session)
        if not found and not self.cloud:
            yield  # another replica may look as well
        if not found and (not self.cloud or not self.of(request.session)):
            self.made += 1
            name = PodName("farlab", f"pod-{request.session}", str(self.made)).job if self.cloud else f"job-{self.made}"
            self.jobs.append(Job(name, request.session))
        job = (found or self.of(request.session))[0 if found or self.cloud else -1].name
        self._in_time()
        return [JobCreated(**self.place(request), job=job)]

    def _submit(self, request: Any, name: str) -> Facts:
        yield
        for job in self.of(request.session):
            if job.name == name and job.phase == "inert":
                state = self.held[request.session].state
                if self.live(request.session):
                    self.wrong("doubled-job", request.session)
                if isinstance(state, WithJob) and state.job != name:
                    self.wrong("started-unannounced", request.session)
                job.phase = "live"
        self._in_time()
        return [JobSubmitted(**self.place(request))]

    def _end(self, request: Any, name: str, stop: StopRequested, launcher: str) -> Facts:
        yield
        for job in self.of(request.session):
            if job.name == name:
                job.phase, job.listens = "over", False
        self._answer()
        yield
        outcome, reason = stopped(stop, launcher)
        return [SessionEnded(**self.place(request), outcome=outcome, reason=reason)]

    def _clear(self, request: Any, name: str) -> Facts:
        yield
        self.held[request.session].secret = False
        yield
        for job in [name] if name else [job.name for job in self.of(request.session)]:
            self.remove(job)
        return []

    def remove(self, name: str) -> None:
        for job in [job for job in self.jobs if job.name == name]:
            state = self.held[job.session].state
            if isinstance(state, WithJob) and not isinstance(state, Ended | lifecycle.Stopping) and state.job == name:
                self.wrong("wanted-job-removed", job.session)
            self.jobs.remove(job)

    def _in_time(self) -> None:
        """A lost answer before the deadline is waited for; after it the start is given up."""
        try:
            self._answer()
        except TransientError as error:
            if self.late:
                raise PermanentError(DEADLINE_PASSED, "too late", "") from error
            raise

    def at_tunneler(self, command: Any) -> Facts:
        request = command.request
        yield
        if isinstance(command, tunneler_decide.CloseTunnel):
            return []
        if not any(job.listens for job in self.of(request.session)):
            raise TransientError("nothing answers")
        yield
        return [self.held[request.session].story.tunnel(generation=command.generation)]

    def place(self, request: Any) -> dict[str, Any]:
        return {"hub": request.hub, "system": request.system, "session": request.session}

    def of(self, session: SessionId) -> list[Job]:
        return [job for job in self.jobs if job.session == session]

    def live(self, session: SessionId) -> bool:
        return any(job.phase == "live" for job in self.of(session))

    def wrong(self, kind: str, session: SessionId) -> None:
        """A promise was broken."""
        self.violations.append(f"{kind}: {session[-2:]}")
