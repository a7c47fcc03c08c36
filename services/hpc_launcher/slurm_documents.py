"""What slurmrestd is sent and what it answers, in the versions of its API that we know. Pure; sends nothing.

Numbers of errors are those of `slurm/slurm_errno.h`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

KNOWN = ("v0.0.38",)
"""Versions of the API, the newest last. Each was tried with a real slurmrestd: later ones shape their fields anew."""

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


class RestJob(msgspec.Struct, frozen=True):
    """A job as v0.0.38 tells it. Times are seconds since 1970, `exit_code` is that of wait(2)."""

    job_id: int
    user_name: str | None = None
    comment: str | None = None
    job_state: str | None = None
    state_reason: str | None = None
    exit_code: int | None = None
    start_time: int | None = None
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


def submission(asked: Mapping[str, Any], folder: str, path: str) -> dict[str, Any]:
    """The document that makes a held job, in its folder at this path."""
    job: dict[str, Any] = {
        "name": f"farlab-{asked['session']}",
        "comment": f"{asked['marks']} {folder}",
        "current_working_directory": path,
        "standard_output": f"{path}/stdout",
        "standard_error": f"{path}/stderr",
        "open_mode": "append",
        "no_requeue": True,  # not in the API's description, and `requeue: false` is taken and does nothing
        "hold": True,
        "nodes": asked["nodes"],
        "time_limit": asked["minutes"],
        # What `sbatch --export=NONE` does: the job has the environment of a login, and nothing of ours.
        "environment": {"SLURM_EXPORT_ENV": "NONE", "SLURM_GET_USER_ENV": "1"},
    }
    for ours, theirs in (
        ("partition", "partition"),
        ("account", "account"),
        ("qos", "qos"),
        ("reservation", "reservation"),
        ("tasks", "tasks"),
        ("cpus_per_task", "cpus_per_task"),
        ("memory_mib_per_node", "memory_per_node"),
    ):
        if asked.get(ours):
            job[theirs] = asked[ours]
    if asked.get("gpus_per_node"):
        job["gres"] = f"gpu:{asked['gpus_per_node']}"
    return {"job": job, "script": WRAPPER}


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
        "state": job.job_state or "",
        "reason": job.state_reason or "",
        "status": job.exit_code,
        "starts_at": job.start_time or 0,
        "restarts": job.restart_cnt or 0,
    }
