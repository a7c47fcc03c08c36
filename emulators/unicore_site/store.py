"""All jobs of an emulated site and their way from stage-in through queue and node to the end. Speaks no HTTP."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from emulators.processes import Step, end_stray
from emulators.unicore_site.batch import BatchSystem
from emulators.unicore_site.configuration import SiteConfiguration
from emulators.unicore_site.descriptions import Asked, DescriptionError, Import
from emulators.unicore_site.jobs import LIFETIME_SECONDS, Job, keep, kept
from emulators.unicore_site.refusals import RefusedError
from emulators.unicore_site.storage import change_permissions, resolve

Change = Literal["status", "bss_status"]
Changed = Callable[[Job, Change], None]
RECORD = "job.json"
LOST = "The compute node was lost while the site was down."
ABORTED = "Job aborted."
TIMED_OUT = "Execution was not completed (no exit code file found), please check standard error file <{}>"
EXITED = (
    "User application exited with non-zero exit code: <{}>. "
    "More information might be available in the job's working directory '{}/'"
)


class JobStore:
    """The site's jobs, one JSON file each, and the processes of those that run."""

    def __init__(self, configuration: SiteConfiguration, changed: Changed) -> None:
        self._configuration = configuration
        self._changed = changed
        self._folder = Path(configuration.folder).absolute() / "jobs"
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._batch = BatchSystem(configuration)
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._aborts: set[asyncio.Task[None]] = set()
        self._last_batch_id = 1000
        self.jobs: dict[str, Job] = {}

    async def recover(self) -> None:
        """Takes up the jobs of an earlier life. Who waited waits again; what ran is killed and has failed."""
        for folder in sorted(self._folder.iterdir()):
            if not (folder / RECORD).exists():  # a job half made or half removed
                shutil.rmtree(folder, ignore_errors=True)
                continue
            job = kept(folder / RECORD)
            self.jobs[job.id] = job
            if job.batch_id.isdigit():
                self._last_batch_id = max(self._last_batch_id, int(job.batch_id))
        for job in sorted(self.jobs.values(), key=lambda each: each.submitted_at):
            if not self.working_directory(job).exists() and not job.ended:
                self._begin(job, self._prepare(job))
            elif job.status == "STAGINGIN":
                self._begin(job, self._stage_in_slowly(job))
            elif job.status == "QUEUED" and not job.node:
                self._begin(job, self._run(job))
            elif job.started and not job.ended:
                await end_stray(job.pid, job.pid_started)
                self._end(job, "FAILED", LOST)

    def working_directory(self, job: Job) -> Path:
        """Where the job's files are."""
        return self._folder / job.id / "work"

    def create(self, job: Job) -> None:
        """Takes a job and stages its files in. It is then READY, or goes on into the queue if it starts by itself."""
        folder = self._folder / job.id
        folder.mkdir(parents=True, mode=0o700)
        job.submitted_at = datetime.now(UTC).timestamp()
        job.terminates_at = job.submitted_at + LIFETIME_SECONDS
        job.started = job.asks.starts_by_itself
        self.jobs[job.id] = job
        self._note(job, "Created with ID " + job.id)
        if self._configuration.preparing_seconds or self._configuration.staging_seconds:
            self._begin(job, self._prepare(job))
        else:
            self._make_directory(job)
            self._stage_in(job)

    def start(self, job: Job) -> None:
        """Hands the job to the queue, or will once it is ready. A started or ended job stays as it is."""
        if job.started or job.ended:
            return
        job.started = True
        if job.status == "READY" and self.working_directory(job).exists():
            self._submit(job)

    async def abort(self, job: Job) -> None:
        """Ends the job wherever it is. An ended job stays as it is."""
        if not job.ended:
            await self._cancel(job)
        if not job.ended:
            self._end(job, "FAILED", ABORTED)

    def abort_soon(self, job: Job) -> None:
        """Begins to end the job, and returns while it may still run."""
        task = asyncio.create_task(self.abort(job))
        self._aborts.add(task)
        task.add_done_callback(self._aborts.discard)

    def restart(self, job: Job) -> None:
        """Runs an ended job again; others stay as they are."""
        if job.ended:
            job.started, job.exit_code, job.status_message, job.node, job.batch_id = True, None, "", "", "N/A"
            self._submit(job)

    async def delete(self, job: Job) -> None:
        """Ends the job without a word and removes it with its directory."""
        self.jobs.pop(job.id, None)
        await self._cancel(job)
        (self._folder / job.id / RECORD).unlink(missing_ok=True)
        shutil.rmtree(self._folder / job.id, ignore_errors=True)

    async def close(self) -> None:
        """Ends every process, all at once; jobs that ran are found again at the next start, and have failed."""
        for task in (tasks := list(self._tasks.values())):
            if not task.cancelling():
                task.cancel()
        if waited := [*tasks, *self._aborts]:
            await asyncio.wait(waited)

    def keep(self, job: Job) -> None:
        """Writes a job that was changed from outside."""
        keep(job, self._folder / job.id / RECORD)

    async def _cancel(self, job: Job) -> None:
        """Stops whatever the site does for the job, and waits until it has."""
        task = self._tasks.get(job.id)
        if task is not None:
            if not task.cancelling():  # a second one would interrupt the orderly end that the first has begun
                task.cancel()
            await asyncio.wait([task])

    def _begin(self, job: Job, life: Coroutine[Any, Any, None]) -> None:
        task = self._tasks[job.id] = asyncio.create_task(life)
        task.add_done_callback(lambda done: self._over(job.id, done))

    def _over(self, job: str, task: asyncio.Task[None]) -> None:
        if self._tasks.get(job) is task:
            del self._tasks[job]

    async def _prepare(self, job: Job) -> None:
        await asyncio.sleep(self._configuration.preparing_seconds)
        self._make_directory(job)
        await self._stage_in_slowly(job)

    def _make_directory(self, job: Job) -> None:
        self.working_directory(job).mkdir(mode=0o700)
        self._set(job, "STAGINGIN")

    async def _stage_in_slowly(self, job: Job) -> None:
        await asyncio.sleep(self._configuration.staging_seconds)
        self._stage_in(job)

    def _stage_in(self, job: Job) -> None:
        work = self.working_directory(job)
        try:
            for each in job.asks.imports:
                _import(work, each)
        except (OSError, RefusedError) as error:
            self._end(job, "FAILED", f"Staging in failed. Reason: {error}")
        else:
            self._ready(job)

    def _ready(self, job: Job) -> None:
        self._set(job, "READY")
        if job.started:
            self._submit(job)

    def _submit(self, job: Job) -> None:
        self._last_batch_id += 1
        job.batch_id = str(self._last_batch_id)
        self._set(job, "QUEUED")
        self._set_bss(job, "PENDING")
        self._begin(job, self._run(job))

    async def _run(self, job: Job) -> None:
        await asyncio.sleep(self._configuration.queue_seconds)
        try:
            asked = job.asks.asked(self._configuration.queues)
        except DescriptionError as error:
            self._end(job, "FAILED", f"Could not submit job: {error}")
            return
        allocation = await self._batch.allocate(asked.queue, asked.nodes, lambda place: self._moved(job, place))
        try:
            job.node, job.place = ",".join(allocation.nodes), 0
            self._set_bss(job, "CONFIGURING")
            await self._execute(job, asked)
        finally:
            self._batch.release(allocation)

    def _moved(self, job: Job, place: int) -> None:
        job.place = place
        self._note(job, f"Waiting for resources, in place {place} of its queue")

    async def _execute(self, job: Job, asked: Asked) -> None:
        grace_seconds = self._configuration.kill_seconds
        try:
            step = await self._begin_step(job)
        except (OSError, ValueError, RefusedError) as error:
            self._end(job, "FAILED", f"Could not submit job: {error}")
            return
        job.pid, job.pid_started = step.pid, step.started
        self._set_bss(job, "RUNNING")
        self._set(job, "RUNNING")
        try:
            async with asyncio.timeout(asked.runtime_seconds):
                job.exit_code = await step.wait()
            self._note(job, f"Exit code {job.exit_code}")
            why = EXITED.format(job.exit_code, self.working_directory(job)) if job.exit_code else ""
        except TimeoutError:
            await step.stop(grace_seconds)
            why = TIMED_OUT.format(job.asks.stderr)
        except asyncio.CancelledError:
            await step.stop(grace_seconds)
            raise
        job.pid = 0
        self._set(job, "STAGINGOUT")
        await asyncio.sleep(self._configuration.staging_seconds)
        self._end(job, "FAILED" if why else "SUCCESSFUL", why)

    async def _begin_step(self, job: Job) -> Step:
        work, asks = self.working_directory(job), job.asks
        home = self._folder.parent / "home" / job.uid
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        return await Step.begin(
            asks.command,
            folder=work,
            environment=job.environment(home, work, self._configuration.path),
            files=(
                resolve(work, asks.stdin) if asks.stdin else None,
                resolve(work, asks.stdout),
                resolve(work, asks.stderr),
            ),
            umask=int(asks.umask, 8),
            grace_seconds=self._configuration.kill_seconds,
        )

    def _set(self, job: Job, status: str) -> None:
        job.status = status
        self._note(job, f"Status set to {status}.")
        self._changed(job, "status")

    def _set_bss(self, job: Job, bss_status: str) -> None:
        job.bss_status = bss_status
        self.keep(job)
        self._changed(job, "bss_status")

    def _end(self, job: Job, status: str, message: str) -> None:
        job.status, job.status_message, job.place, job.pid = status, message, 0, 0
        if job.bss_status:
            self._set_bss(job, "COMPLETED")
        self._note(job, message or "Done.")
        self._changed(job, "status")

    def _note(self, job: Job, line: str) -> None:
        job.note(line)
        self.keep(job)


def _import(work: Path, wanted: Import) -> None:
    """Writes one file that came with the description. Raises OSError or RefusedError."""
    if not wanted.from_.startswith("inline:"):
        if str(wanted.fail_on_error).lower() == "false":
            return
        raise RefusedError(400, f"{wanted.from_}: an emulated site stages in inline data only")
    file = resolve(work, wanted.to)
    if wanted.mode.lower() == "nooverwrite" and file.exists():
        return
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    file.touch(mode=0o600)
    with file.open("a" if wanted.mode.lower() == "append" else "w") as opened:
        opened.write(wanted.content)
    if wanted.permissions:
        change_permissions(file, wanted.permissions)
