"""A Slurm site as the launcher's port: jobs, their folders, their marks. Decides nothing about sessions.

All jobs of a site come from one query, which as many callers share as wait for it.
"""

from __future__ import annotations

import asyncio
import base64
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from time import monotonic
from typing import Any, Protocol

import msgspec

from services._launching.comparison import TaggedJob
from services._runtime.errors import PermanentError, TransientError
from services._runtime.systems import SlurmSite
from services.hpc_launcher.ports import (
    SESSION_PREFIX,
    Finished,
    Gone,
    JobDescription,
    JobReport,
    Marks,
    Owner,
    Unknown,
    installation_word,
    session_of,
)
from services.hpc_launcher.slurm_reports import SlurmJob, report
from services.hpc_launcher.slurm_shell import NoSuchJobError

REMEMBERED = 10_000
MIB = 1024 * 1024


class SlurmCalls(Protocol):
    """The verbs of the forced command, by whatever way. Raises TransientError, PermanentError and NoSuchJobError."""

    async def call(self, account: str, verb: str, /, **words: Any) -> dict[str, Any]:
        """The answer to a request, made as this account."""

    def troubles(self) -> Sequence[str]:
        """Why the site cannot be used right now, one line each."""

    async def close(self) -> None:
        """Ends all connections."""


class SlurmSiteAdapter:
    """See `ports.Site`. A job's id is Slurm's number, an @ and the job's folder: numbers come round again."""

    def __init__(self, site: SlurmSite, calls: SlurmCalls) -> None:
        self._site = site
        self._calls = calls
        self._jobs: list[SlurmJob] = []
        self._asked_at = float("-inf")
        self._failure: TransientError | PermanentError | None = None
        self._asking = asyncio.Lock()
        self._asked_for: OrderedDict[str, float] = OrderedDict()
        self._changed_at = 0.0

    async def find(self, marks: Marks, owner: Owner) -> list[str]:
        """See Site."""
        wanted = {marks.installation_word, marks.session_word}
        jobs = [job for job in await self._owned(owner, monotonic()) if wanted <= set(job.words)]
        return [_id(job) for job in sorted(jobs, key=lambda job: int(job.job))]

    async def create(self, description: JobDescription, owner: Owner) -> str:
        """See Site."""
        asked = description.resources
        cores = asked.cores
        said = await self._call(
            owner,
            "create",
            session=description.marks.session_word.removeprefix(SESSION_PREFIX),
            marks=" ".join(description.marks.words),
            partition=description.partition,
            account=description.project,
            qos=self._site.qos.get(description.partition, ""),
            reservation=asked.reservation or "",
            nodes=asked.nodes,
            minutes=max(1, -(-asked.runtime_seconds // 60)),
            tasks=asked.nodes,
            cpus_per_task=-(-cores // asked.nodes) if cores else 0,
            gpus_per_node=-(-asked.gpus // asked.nodes) if asked.gpus else 0,
            memory_mib_per_node=-(-asked.memory_bytes // (MIB * asked.nodes)) if asked.memory_bytes else 0,
            files=_packed({name: content.encode() for name, content in description.files.items()}),
        )
        return f"{said['job']}@{said['folder']}"

    async def stage(self, job: str, files: Mapping[str, bytes], owner: Owner) -> None:
        """See Site."""
        await self._call(owner, "stage", folder=_parts(job)[1], files=_packed(files))

    async def start(self, job: str, owner: Owner) -> None:
        """See Site."""
        number, folder = _parts(job)
        await self._call(owner, "start", job=number, folder=folder)

    async def abort(self, job: str, owner: Owner) -> None:
        """See Site."""
        number, folder = _parts(job)
        await self._call(owner, "abort", job=number, folder=folder)

    async def delete(self, job: str, owner: Owner) -> None:
        """See Site."""
        number, folder = _parts(job)
        await self._call(owner, "delete", job=number, folder=folder)
        self._asked_for.pop(number, None)

    async def report(self, job: str, owner: Owner) -> JobReport:
        """See Site."""
        try:
            number, folder = _parts(job)
            self._asked_for[number] = monotonic()
            self._asked_for.move_to_end(number)
            while len(self._asked_for) > REMEMBERED:
                self._asked_for.popitem(last=False)
            fresh = max(self._changed_at, monotonic() - self._site.poll_seconds / 2)
            for each in await self._owned(owner, fresh):
                if each.job == number and each.words[-1] == folder:
                    return report(each)
        except (TransientError, PermanentError) as error:
            return Unknown(str(error))
        return Gone()

    async def sizes(self, job: str, owner: Owner) -> dict[str, int]:
        """See Site."""
        said = await self._call(owner, "sizes", folder=_parts(job)[1])
        return {str(name): int(size) for name, size in said["sizes"].items()}

    async def read(self, job: str, name: str, owner: Owner, *, offset: int, length: int) -> bytes:
        """See Site."""
        said = await self._call(owner, "read", folder=_parts(job)[1], name=name, offset=offset, length=length)
        return base64.b64decode(said["content"])[:length]

    async def tagged_jobs(self, installation: str, owner: Owner, known: Collection[str]) -> Sequence[TaggedJob]:
        """See Site."""
        word = installation_word(installation)
        jobs = [job for job in await self._owned(owner, monotonic() - self._site.poll_seconds) if word in job.words]
        return [TaggedJob(_id(job), session_of(job.words)) for job in jobs if _id(job) not in known and _lives(job)]

    async def certificate(self, *, fresh: bool = False) -> str:
        """See Site: Slurm signs nothing. With `fresh`, raises unless the site can be asked."""
        if fresh:
            await self._calls.call(self._site.query_account, "version")
        return ""

    def troubles(self) -> Sequence[str]:
        """See Site."""
        return self._calls.troubles()

    async def close(self) -> None:
        """See Site."""
        await self._calls.close()

    async def _owned(self, owner: Owner, since: float) -> list[SlurmJob]:
        """The owner's jobs, from a query that began at `since` or later. A comment is only its owner's word."""
        async with self._asking:  # who waits here needs what the next query says, and shares it
            if self._asked_at < since:
                self._asked_at, self._failure = monotonic(), None
                try:
                    await self._ask()
                except (TransientError, PermanentError) as error:
                    self._failure = error
            if self._failure is not None:
                raise self._failure
            return [job for job in self._jobs if job.account == owner.account]

    async def _ask(self) -> None:
        long_ago = monotonic() - 2 * self._site.longest_poll_seconds
        jobs = [job for job, asked in self._asked_for.items() if asked > long_ago]
        try:
            said = await self._calls.call(self._site.query_account, "queue", jobs=jobs)
            self._jobs = [job for job in msgspec.convert(said["jobs"], list[SlurmJob], strict=False) if job.words]
        except (msgspec.ValidationError, KeyError, NoSuchJobError) as error:
            raise TransientError(f"Slurm's queue cannot be read: {error}") from None

    async def _call(self, owner: Owner, verb: str, **words: object) -> dict[str, Any]:
        try:
            return await self._calls.call(owner.account, verb, **words)
        except NoSuchJobError:
            raise PermanentError(
                "job-gone", "The site has lost the job before it began.", "Start the server again."
            ) from None
        finally:
            self._changed_at = monotonic() if verb not in ("sizes", "read") else self._changed_at


def _lives(job: SlurmJob) -> bool:
    """Whether there is something to remove: what is over goes from Slurm's memory by itself."""
    return not isinstance(report(job), Finished)


def _id(job: SlurmJob) -> str:
    return f"{job.job}@{job.words[-1]}"


def _parts(job: str) -> tuple[str, str]:
    number, _, folder = job.partition("@")
    return number, folder


def _packed(files: Mapping[str, bytes]) -> dict[str, str]:
    return {name: base64.b64encode(content).decode() for name, content in files.items()}
