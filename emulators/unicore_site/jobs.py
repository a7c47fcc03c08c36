"""Jobs of an emulated site: their record on disk, and their way through queue, node and end. Speaks no HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import re
import shutil
import signal
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from emulators.unicore_site.configuration import SiteConfiguration

ENDED = ("SUCCESSFUL", "FAILED")
PR_SET_PDEATHSIG = 1


class Job(msgspec.Struct, kw_only=True):
    """One job as the site remembers it. Times are seconds since the epoch."""

    id: str
    owner: str
    uid: str
    group: str
    description: dict[str, Any]
    tags: list[str]
    status: str = "READY"
    status_message: str = ""
    bss_status: str = ""
    batch_id: str = "N/A"
    node: str = ""
    exit_code: int | None = None
    log: list[str] = []
    submitted_at: float = 0.0
    pid: int = 0
    pid_started: str = ""
    started: bool = False

    @property
    def queue(self) -> str:
        """The partition asked for."""
        return str(self.resources.get("Queue", ""))

    @property
    def resources(self) -> dict[str, Any]:
        """What the description asks for."""
        resources = self.description.get("Resources", {})
        return resources if isinstance(resources, dict) else {}

    @property
    def nodes(self) -> int:
        """How many nodes."""
        return int(self.resources.get("Nodes", 1))

    @property
    def runtime_seconds(self) -> float:
        """The time limit."""
        return seconds(str(self.resources.get("Runtime", "3600")))


def seconds(runtime: str) -> float:
    """A UNICORE duration such as `90`, `30min`, `2h` or `1d` in seconds. Raises ValueError."""
    match = re.fullmatch(r"\s*(\d+)\s*(s|sec|m|min|h|d)?\s*", runtime)
    if match is None:
        raise ValueError(f"{runtime!r} is not a duration")
    factor = {None: 1, "s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400}[match[2]]
    return float(int(match[1]) * factor)


Changed = Callable[[Job], None]


class JobStore:
    """All jobs of the site, one JSON file each, and the processes of those that run."""

    def __init__(self, configuration: SiteConfiguration, changed: Changed) -> None:
        self._configuration = configuration
        self._changed = changed
        self._folder = Path(configuration.folder).absolute() / "jobs"
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._processes: dict[str, asyncio.subprocess.Process] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._load: dict[str, int] = dict.fromkeys(configuration.compute_nodes, 0)
        self._room = asyncio.Condition()
        self._next_batch_id = 1000
        self._closing = False
        self.jobs: dict[str, Job] = {}

    def recover(self) -> None:
        """Reads the jobs of an earlier life. What ran then is killed if it still does, and has failed."""
        for file in sorted(self._folder.glob("*/job.json")):
            job = msgspec.json.decode(file.read_bytes(), type=Job)
            self.jobs[job.id] = job
            if job.status not in ENDED and job.started:
                if job.pid and _started(job.pid) == job.pid_started:
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(job.pid, signal.SIGKILL)
                self._end(job, "FAILED", "The compute node was lost while the site was down.")

    def working_directory(self, job: Job) -> Path:
        """Where the job's files are."""
        return self._folder / job.id / "work"

    def create(self, job: Job) -> None:
        """Takes a job, inert: its working directory is there for stage-in."""
        folder = self._folder / job.id
        (folder / "work").mkdir(parents=True, mode=0o700)
        folder.chmod(0o700)
        job.submitted_at = datetime.now(UTC).timestamp()
        self.jobs[job.id] = job
        self.note(job, "Created with ID " + job.id)

    def start(self, job: Job) -> None:
        """Hands the job to the queue. A started job stays as it is."""
        if not job.started:
            job.started = True
            self._set(job, "QUEUED", "PENDING")
            self._tasks[job.id] = asyncio.create_task(self._run(job))

    async def abort(self, job: Job) -> None:
        """Ends the job wherever it is. An ended job stays as it is."""
        if job.status in ENDED:
            return
        if (process := self._processes.get(job.id)) is not None:
            await _kill(process)
        elif (task := self._tasks.get(job.id)) is not None:
            task.cancel()
            await asyncio.wait([task])
        if job.status not in ENDED:
            self._end(job, "FAILED", "Job was aborted by the user.")

    async def restart(self, job: Job) -> None:
        """Runs an ended job again."""
        await self.abort(job)
        job.started, job.exit_code = False, None
        self.start(job)

    async def delete(self, job: Job) -> None:
        """Ends the job and removes it with its directory."""
        await self.abort(job)
        self.jobs.pop(job.id, None)
        shutil.rmtree(self._folder / job.id, ignore_errors=True)

    async def close(self) -> None:
        """Kills every process; jobs that ran are found again at the next start, and have failed."""
        self._closing = True
        for process in list(self._processes.values()):
            await _kill(process)
        for task in list(self._tasks.values()):
            task.cancel()
        if self._tasks:
            await asyncio.wait(list(self._tasks.values()))

    def note(self, job: Job, line: str) -> None:
        """Adds a line to the job's log and keeps the job."""
        job.log = [*job.log, f"{datetime.now(UTC):%a %b %d %H:%M:%S UTC %Y}: {line}"][-200:]
        self._keep(job)

    async def _run(self, job: Job) -> None:
        node = ""
        try:
            await asyncio.sleep(self._configuration.queue_seconds)
            node = await self._node(job)
            self._next_batch_id += 1
            job.batch_id, job.node = str(self._next_batch_id), node
            self._set(job, "QUEUED", "CONFIGURING")
            await self._execute(job, node)
        finally:
            self._tasks.pop(job.id, None)
            if node:
                async with self._room:
                    self._load[node] -= 1
                    self._room.notify_all()

    async def _node(self, job: Job) -> str:
        """Waits for a node with room."""
        async with self._room:
            while True:
                node = min(self._load, key=lambda each: self._load[each])
                if self._load[node] < self._configuration.jobs_per_node:
                    self._load[node] += 1
                    return node
                self.note(job, "Waiting for resources")
                await self._room.wait()

    async def _execute(self, job: Job, node: str) -> None:
        work = self.working_directory(job)
        arguments = [str(job.description.get("Executable", "/bin/true"))]
        arguments += [str(argument) for argument in job.description.get("Arguments", [])]
        out_fd = os.open(work / "stdout", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        err_fd = os.open(work / "stderr", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            process = await asyncio.create_subprocess_exec(
                *arguments,
                cwd=work,
                env=self._environment(job, node),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=out_fd,
                stderr=err_fd,
                start_new_session=True,
                preexec_fn=_die_with_parent,
                umask=0o077,
            )
        except OSError as error:
            self._end(job, "FAILED", f"Could not execute {arguments[0]}: {error.strerror}")
            return
        finally:
            os.close(out_fd)
            os.close(err_fd)
        self._processes[job.id] = process
        job.pid, job.pid_started = process.pid, _started(process.pid)
        self._set(job, "RUNNING", "RUNNING")
        try:
            async with asyncio.timeout(job.runtime_seconds):
                code = await process.wait()
            why = "" if code == 0 else f"Job exited with code {code}."
        except TimeoutError:
            await _kill(process)
            code, why = 143, "Job exceeded its time limit."
        finally:
            self._processes.pop(job.id, None)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        if self._closing:
            return  # the node went down with the site: what is kept says that the job ran
        job.exit_code = code if code >= 0 else 128 - code
        self._end(job, "SUCCESSFUL" if code == 0 else "FAILED", why)

    def _environment(self, job: Job, node: str) -> dict[str, str]:
        home = self._folder.parent / "home" / job.uid
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        own = job.description.get("Environment", {})
        return {
            "PATH": ":".join([*self._configuration.path, "/usr/local/bin", "/usr/bin", "/bin"]),
            "HOME": str(home),
            "USER": job.uid,
            "LANG": "C.UTF-8",
            "SLURMD_NODENAME": node,
            "SLURM_JOB_ID": job.batch_id,
            "SLURM_JOB_ACCOUNT": job.group,
            "SLURM_JOB_PARTITION": job.queue,
            **{str(key): str(value) for key, value in own.items()},
        }

    def _set(self, job: Job, status: str, bss_status: str) -> None:
        job.status, job.bss_status = status, bss_status
        self.note(job, f"Status set to {status}.")
        self._changed(job)

    def _end(self, job: Job, status: str, message: str) -> None:
        job.status, job.bss_status, job.status_message, job.pid = status, "COMPLETED", message, 0
        self.note(job, message or "Done.")
        self._changed(job)

    def _keep(self, job: Job) -> None:
        folder = self._folder / job.id
        if folder.exists():
            temporary = folder / "job.json.new"
            temporary.write_bytes(msgspec.json.encode(job))
            temporary.replace(folder / "job.json")


def _die_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _started(pid: int) -> str:
    """When a process began, so that a recycled pid is not mistaken; empty when there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


async def _kill(process: asyncio.subprocess.Process) -> None:
    for number, patience in ((signal.SIGTERM, 3.0), (signal.SIGKILL, 10.0)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience):
                await process.wait()
            return
