"""A site as UNICORE behaves at the launcher's port: inert jobs, tags, a queue, deletes, answers lost on their way.

Omits: files beyond those a job of ours has, users' logins, the HTTP client with its limiter and breaker.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeVar

import msgspec

from schemas.base import SessionId
from services._launching.comparison import TaggedJob
from services._runtime.errors import PermanentError, TransientError
from services.hpc_launcher import script
from services.hpc_launcher.ports import (
    Finished,
    Gone,
    Inert,
    JobDescription,
    JobReport,
    Marks,
    Owner,
    Queued,
    Running,
    Unknown,
    installation_word,
    session_of,
)
from tests.simulation.process import LostAnswerError, Process

if TYPE_CHECKING:
    from tests.simulation.world import World

Answer = TypeVar("Answer")
REQUEST_SECONDS = 10.0
Phase = Literal["inert", "queued", "running", "ending", "over"]


@dataclass
class Job:
    """A job at the site."""

    name: str
    session: SessionId | None
    words: list[str]
    owner: Owner
    made_at: float
    phase: Phase = "inert"
    succeeded: bool = False
    deleted: bool = False
    proof_key: str = ""
    progress: bytes = b""
    address: tuple[str, int] | None = None
    listening: bool = False
    said: bytes = field(default=b"")

    @property
    def live(self) -> bool:
        """Whether it takes something that others could use: a place in the queue or nodes."""
        return self.phase in ("queued", "running", "ending")


class Site:
    """The one site of a scenario."""

    def __init__(self, world: World, queue_seconds: float, boot_seconds: float) -> None:
        self.jobs: dict[str, Job] = {}
        self.denies: set[str] = set()
        self._world = world
        self._queue_seconds = queue_seconds
        self._boot_seconds = boot_seconds
        self._count = 0

    def there(self) -> list[Job]:
        """The jobs that are not deleted."""
        return [job for job in self.jobs.values() if not job.deleted]

    def serving(self, host: str, port: int) -> Job | None:
        """Whose server answers at an address of a compute node."""
        for job in self.jobs.values():
            if job.listening and job.address == (host, port):
                return job
        return None

    def create(self, description: JobDescription, owner: Owner) -> str:
        self._count += 1
        name = f"job-{self._count}"
        self.jobs[name] = Job(
            name, description.marks.session, description.marks.words, owner, made_at=self._world.loop.now
        )
        self._world.say("site", f"makes {name} for {description.marks.session[-4:]}")
        return name

    def find(self, name: str) -> Job | None:
        job = self.jobs.get(name)
        return None if job is None or job.deleted else job

    def stage(self, name: str, content: bytes) -> None:
        job = self.find(name)
        if job is None:
            raise TransientError("the job is not there (yet)")
        job.proof_key = str(msgspec.json.decode(content)["proof_key"])

    def start(self, name: str) -> None:
        job = self.find(name)
        if job is None:
            raise PermanentError("job-gone", "The job vanished before it began.", "Start the server again.")
        if job.phase == "inert":
            job.phase = "queued"
            self._world.say("site", f"{name} is queued")
            self._world.started(job)
            self._world.loop.after(self._queue_seconds, self._run, job)

    def _run(self, job: Job) -> None:
        if job.phase == "queued":
            job.phase = "running"
            self._world.say("site", f"{job.name} runs")
            job.progress += b'{"percent": 10, "message": "Loading software"}\n'
            self._world.loop.after(self._boot_seconds, self._listen, job)

    def _listen(self, job: Job) -> None:
        if job.phase == "running" and job.proof_key:
            job.address = ("127.30.0.21", 50_000 + len([each for each in self.jobs.values() if each.address]))
            job.listening = True
            self._world.say("site", f"{job.name} listens at {job.address[1]}")
            job.progress += b'{"percent": 80, "message": "Listening"}\n'
            others = [each for each in self.jobs.values() if each.listening and each is not job]
            host, port = (others[0].address or job.address) if others and self._world.scenario.hostile else job.address
            job.said = msgspec.json.encode({"host": host, "port": port})

    def abort(self, name: str) -> None:
        job = self.find(name)
        if job is not None:
            self._world.invariants.removed(job)
            self.end(job)

    def delete(self, name: str) -> None:
        job = self.find(name)
        if job is not None:
            self._world.invariants.removed(job)
            job.deleted = True
            self._world.say("site", f"{name} is deleted")
            self.end(job)

    def end(self, job: Job, succeeded: bool = False) -> None:
        """The job's end begins; a running one takes a moment to go."""
        if job.phase in ("inert", "queued"):
            self._over(job, succeeded)
        elif job.phase == "running":
            job.phase = "ending"
            self._world.loop.after(self._world.random.random() * 3.0, self._over, job, succeeded)

    def _over(self, job: Job, succeeded: bool) -> None:
        if job.phase != "over":
            job.phase, job.listening, job.succeeded = "over", False, succeeded
            self._world.say("site", f"{job.name} is over")

    def report(self, name: str) -> JobReport:
        job = self.find(name)
        if job is None or name in self.denies:
            self.denies.discard(name)
            return Gone()
        match job.phase:
            case "inert":
                return Inert()
            case "queued":
                return Queued()
            case "running" | "ending":
                return Running()
            case "over":
                return Finished(succeeded=job.succeeded, exit_code=0 if job.succeeded else 1)


class SitePort:
    """The site as one launcher reaches it. See `ports.Site`."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._site = process.world.site

    async def _ask(self, operation: Callable[[], Answer]) -> Answer:
        try:
            return await self._process.ask("site", operation, REQUEST_SECONDS)
        except LostAnswerError:
            raise TransientError(f"the site did not answer within {REQUEST_SECONDS:.0f} s") from None

    async def find(self, marks: Marks, owner: Owner) -> list[str]:
        return await self._ask(
            lambda: [job.name for job in self._site.there() if marks.session_word in job.words and job.owner == owner]
        )

    async def create(self, description: JobDescription, owner: Owner) -> str:
        return await self._ask(lambda: self._site.create(description, owner))

    async def stage(self, job: str, files: Mapping[str, bytes], owner: Owner) -> None:
        await self._ask(lambda: self._site.stage(job, files[script.SECRETS_FILE]))

    async def start(self, job: str, owner: Owner) -> None:
        await self._ask(lambda: self._site.start(job))

    async def abort(self, job: str, owner: Owner) -> None:
        await self._ask(lambda: self._site.abort(job))

    async def delete(self, job: str, owner: Owner) -> None:
        await self._ask(lambda: self._site.delete(job))

    async def report(self, job: str, owner: Owner) -> JobReport:
        try:
            return await self._ask(lambda: self._site.report(job))
        except TransientError as error:
            return Unknown(error.reason)

    def _files(self, name: str) -> dict[str, bytes]:
        job = self._site.find(name)
        return {} if job is None else {script.PROGRESS_FILE: job.progress, script.ENDPOINT_FILE: job.said}

    async def sizes(self, job: str, owner: Owner) -> dict[str, int]:
        return await self._ask(lambda: {name: len(content) for name, content in self._files(job).items()})

    async def read(self, job: str, name: str, owner: Owner, *, offset: int, length: int) -> bytes:
        return await self._ask(lambda: self._files(job).get(name, b"")[offset : offset + length])

    async def tagged_jobs(self, installation: str, owner: Owner, known: Collection[str]) -> Sequence[TaggedJob]:
        word = installation_word(installation)
        return await self._ask(
            lambda: [
                TaggedJob(job.name, session_of(job.words))
                for job in self._site.there()
                if word in job.words and job.owner == owner and job.name not in known
            ]
        )

    async def certificate(self, *, fresh: bool = False) -> str:
        raise TransientError("no certificate here")

    def troubles(self) -> Sequence[str]:
        return []

    async def close(self) -> None:
        return
