"""What slurmrestd is sent and what it answers, in the versions of its API that we know. Pure; sends nothing.

Numbers of errors are those of `slurm/slurm_errno.h`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

OLDEST = "v0.0.38"
KNOWN = (OLDEST, "v0.0.40", "v0.0.41", "v0.0.42")
"""Versions of the API, the newest last. Each was tried with a real slurmrestd, of Slurm 22.05 and of 24.11."""

WRAPPER = "#!/bin/bash\nexec /bin/bash ./start.sh\n"
_PATH = re.compile(r"/slurm/(v\d+\.\d+\.\d+)/")

DOUBTFUL = {-1, 5005}
"""All that 22.05 says of a token it does not believe (an unspecified error, zero bytes) and, mostly, of a controller
that is away."""
HELD = 2042
"""No error: it is said of every job that was submitted held."""
NO_SUCH_JOB = 2017
AWAY = {2020, 2027, 2037, 2131}
"""Of the controller's own words those that pass: a job in transition, a backup in standby, disabled for the moment."""
UNTRUSTED = {1007, *range(6000, 6100), 9008}
REFUSED = {*range(2000, 3000), *range(9000, 9300)}
"""What the controller will not do, and what slurmrestd will not pass on to it, such as GPUs where the site has none."""


class Problem(msgspec.Struct, frozen=True):
    """An error that slurmrestd tells: two names for its number, and words that may be missing."""

    error_number: int = 0
    error_code: int = 0
    error: str | None = None
    description: str | None = None

    @property
    def number(self) -> int:
        """Slurm's number of the error."""
        return self.error_number or self.error_code

    @property
    def words(self) -> str:
        """Slurm's own words, bounded, on one line."""
        said = " ".join(f"{self.error or ''} {self.description or ''}".split())[:500]
        return said or f"error {self.number}"


class Number(msgspec.Struct, frozen=True):
    """A number as versions since v0.0.39 write it, where Slurm knows more than numbers."""

    number: int = 0
    set: bool = True


class Signal(msgspec.Struct, frozen=True):
    """The signal that ended a job."""

    id: Number = Number()


class ExitCode(msgspec.Struct, frozen=True):
    """How a job ended, as versions since v0.0.39 write it."""

    return_code: Number = Number()
    signal: Signal = Signal()


class RestJob(msgspec.Struct, frozen=True):
    """A job, in v0.0.38 and later. Times are seconds since 1970, a plain exit code is that of wait(2)."""

    job_id: int
    user_name: str | None = None
    comment: str | None = None
    job_state: str | list[str] | None = None
    state_reason: str | None = None
    exit_code: int | ExitCode | None = None
    start_time: int | Number | None = None
    restart_cnt: int | None = None

    @property
    def words(self) -> list[str]:
        """The marks, and last the folder."""
        return (self.comment or "").split()


class Said(msgspec.Struct, frozen=True):
    """An answer, of which each request reads what it needs."""

    errors: list[Problem] = []
    jobs: list[RestJob] = []
    job_id: int = 0

    @property
    def problem(self) -> Problem | None:
        """Of the errors the one that says most: several tell of one failure, and some of none."""
        errors = [each for each in self.errors if each.number not in (0, HELD)]
        return max(errors, key=lambda each: each.number, default=None)


class Offer(msgspec.Struct, frozen=True):
    """The description of the API (OpenAPI 3), of which only the paths count here."""

    paths: dict[str, msgspec.Raw]


def versions(paths: Iterable[str]) -> list[str]:
    """The versions of the API whose paths these are, oldest first."""
    found = {match.group(1) for path in paths if (match := _PATH.match(path))}
    return sorted(found, key=lambda version: [int(part) for part in version.removeprefix("v").split(".")])


def submission(version: str, asked: Mapping[str, Any], folder: str, path: str) -> dict[str, Any]:
    """The document that makes a held job, in its folder at this path."""
    old = version == OLDEST
    job: dict[str, Any] = {
        "name": f"farlab-{asked['session']}",
        "comment": f"{asked['marks']} {folder}",
        "current_working_directory": path,
        "standard_output": f"{path}/stdout",
        "standard_error": f"{path}/stderr",
        "open_mode": "append",
        "hold": True,
        "nodes": asked["nodes"] if old else str(asked["nodes"]),
        "time_limit": _counted(old, asked["minutes"]),
        "environment": _ENVIRONMENT if old else [f"{name}={value}" for name, value in _ENVIRONMENT.items()],
    }
    if old:
        job["no_requeue"] = True  # not in the API's description; it takes `requeue: false`, which does nothing there
    else:
        job.update(requeue=False, script=WRAPPER)
    for name in ("partition", "account", "qos", "reservation", "tasks", "cpus_per_task"):
        if asked.get(name):
            job[name] = asked[name]
    if asked.get("memory_mib_per_node"):
        job["memory_per_node"] = _counted(old, asked["memory_mib_per_node"])
    if asked.get("gpus_per_node"):
        job["gres" if old else "tres_per_node"] = f"{'' if old else 'gres/'}gpu:{asked['gpus_per_node']}"
    return {"job": job, "script": WRAPPER} if old else {"job": job}


def _counted(old: bool, number: int) -> int | dict[str, object]:
    return number if old else {"set": True, "number": number}


_ENVIRONMENT = {"SLURM_EXPORT_ENV": "NONE", "SLURM_GET_USER_ENV": "1"}
"""What `sbatch --export=NONE` sets: the job has the environment of a login, and nothing of ours."""

RELEASE = {"hold": False}
"""The document that lets a held job begin."""


def listed(jobs: Iterable[RestJob], mark: str) -> list[dict[str, Any]]:
    """Of these jobs those with Farlab's marks, as the forced command tells them."""
    return [_told(job) for job in jobs if (job.comment or "").startswith(mark)]


def _told(job: RestJob) -> dict[str, Any]:
    return {
        "job": str(job.job_id),
        "account": job.user_name or "",
        "comment": job.comment or "",
        "state": " ".join(job.job_state) if isinstance(job.job_state, list) else job.job_state or "",
        "reason": job.state_reason or "",
        "status": _status(job.exit_code),
        "starts_at": _plain(job.start_time),
        "restarts": job.restart_cnt or 0,
    }


def _plain(value: int | Number | None) -> int:
    if isinstance(value, Number):
        return value.number if value.set else 0
    return value or 0


def _status(code: int | ExitCode | None) -> int | None:
    if isinstance(code, ExitCode):
        return (_plain(code.return_code) << 8) + _plain(code.signal.id)
    return code
