"""A job as an emulated site remembers it, over restarts. It is only a record: `store` moves it along."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from emulators.unicore_site.descriptions import Description, read

ENDED = ("SUCCESSFUL", "FAILED")
MOST_LOG_LINES = 200
LIFETIME_SECONDS = 864_000.0


class Job(msgspec.Struct, kw_only=True):
    """One job. Times are seconds since the epoch; `status` is UNICORE's, `bss_status` the batch system's.

    `started`: it was handed to the queue or shall be once it is ready. `pid` is of the keeper of its processes.
    """

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
    place: int = 0
    exit_code: int | None = None
    log: list[str] = []
    submitted_at: float = 0.0
    terminates_at: float = 0.0
    pid: int = 0
    pid_started: str = ""
    started: bool = False

    @property
    def asks(self) -> Description:
        """Its description, read."""
        return read(self.description)

    @property
    def queue(self) -> str:
        """The partition it asked for, if it did."""
        return str(self.asks.resources.get("Queue") or "")

    @property
    def ended(self) -> bool:
        """Whether it is over."""
        return self.status in ENDED

    def note(self, line: str) -> None:
        """Adds a line to the log that users see."""
        self.log = [*self.log, f"{datetime.now(UTC):%a %b %d %H:%M:%S UTC %Y}: {line}"][-MOST_LOG_LINES:]

    def environment(self, home: Path, work: Path, path: list[str]) -> dict[str, str]:
        """What its processes find: a minimal environment, the batch system's variables, and its own."""
        return {
            "PATH": ":".join([*path, "/usr/local/bin", "/usr/bin", "/bin"]),
            "HOME": str(home),
            "USER": self.uid,
            "LOGNAME": self.uid,
            "LANG": "C.UTF-8",
            "SLURM_JOB_ID": self.batch_id,
            "SLURM_JOB_NAME": self.asks.name,
            "SLURM_JOB_ACCOUNT": self.asks.project or self.group,
            "SLURM_JOB_PARTITION": self.queue,
            "SLURM_JOB_NODELIST": self.node,
            "SLURM_JOB_NUM_NODES": str(self.asks.number("Nodes") or 1),
            "SLURM_SUBMIT_DIR": str(work),
            "SLURMD_NODENAME": self.node.partition(",")[0],
            **self.asks.variables,
        }


def keep(job: Job, file: Path) -> None:
    """Writes the record atomically, unless the job's folder is gone."""
    if file.parent.exists():
        temporary = file.with_suffix(".json.new")
        temporary.touch(mode=0o600)
        temporary.write_bytes(msgspec.json.encode(job))
        temporary.replace(file)


def kept(file: Path) -> Job:
    """A record as it was written."""
    return msgspec.json.decode(file.read_bytes(), type=Job)
