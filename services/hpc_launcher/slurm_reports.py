"""What Slurm's words for a job mean to the launcher. Pure; asks nobody."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec

from services.hpc_launcher.ports import Configuring, Finished, Inert, JobReport, Queued, Running, Unknown


class SlurmJob(msgspec.Struct, frozen=True):
    """A job as the login node's command tells it. `status` is that of wait(2), `starts_at` in seconds since 1970."""

    job: str
    account: str
    comment: str
    state: str
    reason: str = ""
    status: int | None = None
    starts_at: int = 0
    restarts: int = 0

    @property
    def words(self) -> list[str]:
        """The marks, and last the folder."""
        return self.comment.split()


_WAITING = {
    "Priority": "Other jobs have a higher priority.",
    "Resources": "It is next, and waits for nodes to become free.",
    "Dependency": "It waits for another job.",
    "BeginTime": "It was put back in the queue and begins in a moment.",
    "ReqNodeNotAvail": "The nodes it needs are down or kept for maintenance.",
    "Reservation": "It waits for its reservation to begin.",
    "ReservationDeleted": "Its reservation was removed; stop it and start again without.",
    "PartitionDown": "The partition is down.",
    "PartitionInactive": "The partition takes no jobs at the moment.",
    "PartitionTimeLimit": "It asks for more time than the partition allows; stop it and ask for less.",
    "PartitionNodeLimit": "It asks for more nodes than the partition allows; stop it and ask for fewer.",
    "NodeDown": "A node it needs is down.",
    "JobHeldAdmin": "An administrator of the site holds it back.",
    "BadConstraints": "It asks for more than the nodes of the partition have; stop it and ask for less.",
    "Licenses": "It waits for licences.",
    "Cleaning": "Nodes are being cleaned up after an earlier run.",
}
_PASSING = ("COMPLETING", "CONFIGURING")
_ENDS = {
    "TIMEOUT": "it reached its time limit",
    "DEADLINE": "it could not end before its deadline, a time limit of the site",
    "OUT_OF_MEMORY": "it used more memory than it had asked for",
    "NODE_FAIL": "a node it ran on failed",
    "BOOT_FAIL": "its nodes did not start",
    "PREEMPTED": "the site took its nodes for a job that goes before",
    "CANCELLED": "it was cancelled at the site",
    "REVOKED": "the site withdrew it",
}


def report(job: SlurmJob) -> JobReport:
    """What the state means."""
    states = job.state.split()
    # Slurm 22.05 tells what a job goes through in place of its state, later ones beside it.
    state = next((each for each in _PASSING if each in states), states[0].rstrip("+") if states else "")
    match state:
        case "PENDING" | "REQUEUED" | "REQUEUE_FED" | "REQUEUE_HOLD" | "SPECIAL_EXIT" | "RESV_DEL_HOLD":
            if state == "PENDING" and job.reason == "JobHeldUser" and not job.restarts:
                return Inert()
            return Queued(estimated_start=_moment(job.starts_at), words=waiting(job))
        case "CONFIGURING":
            return Configuring(words="Nodes are being prepared.")
        case "RUNNING" | "COMPLETING" | "SUSPENDED" | "STOPPED" | "SIGNALING" | "STAGE_OUT" | "RESIZING":
            return Running()
        case "COMPLETED":
            return Finished(succeeded=True, exit_code=0)
        case "FAILED":
            return Finished(succeeded=False, exit_code=_exit_code(job.status), words=_signal(job.status))
        case _ if state in _ENDS:
            return Finished(succeeded=False, exit_code=_exit_code(job.status), words=_ENDS[state])
        case _:
            return Unknown(f"Slurm calls the job's state {state[:40] or 'nothing'}")


def waiting(job: SlurmJob) -> str:
    """Why a job waits, in words."""
    again = "The site put the job back in the queue. " if job.restarts else ""
    reason = job.reason.partition(",")[0].strip("()")
    if reason in ("", "None"):
        return again.strip()
    if reason in _WAITING:
        return again + _WAITING[reason]
    if reason.startswith(("QOSMax", "AssocMax", "AssocGrp", "QOSGrp", "MaxCpuPer", "MaxMemPer")):
        return again + f"A limit of your project or of the site is reached ({reason})."
    return again + f"Slurm says: {reason}."


def _moment(seconds: int) -> datetime | None:
    try:
        return datetime.fromtimestamp(seconds, UTC) if seconds > 0 else None
    except (OverflowError, OSError, ValueError):
        return None


def _exit_code(status: int | None) -> int | None:
    return None if status is None or status & 0x7F else status >> 8 & 0xFF


def _signal(status: int | None) -> str:
    return f"it ended by signal {status & 0x7F}" if status is not None and status & 0x7F else ""
