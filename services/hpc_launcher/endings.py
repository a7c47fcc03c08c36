"""How a session ended, in words a person can use, with the last lines of what its job wrote. Ends nothing."""

from __future__ import annotations

from datetime import datetime

import structlog

from schemas.lifecycle import WithJob
from schemas.session import LogTail, Outcome, SessionEnded, StartRequested, Use
from services._launching.ends import ended
from services._runtime.errors import PermanentError, TransientError
from services._runtime.systems import System
from services.hpc_launcher.ports import Finished, Owner, Site
from services.hpc_launcher.script import core_seconds

_log = structlog.get_logger("farlab.hpc_launcher")

TAIL_BYTES = 4096
NOT_IN_TIME = 75
UNWRITABLE = 120
"""How Python ends where it cannot write its last output (its documentation, `sys.exit`)."""
_LIMIT_WORDS = ("time limit", "timelimit", "timeout", "walltime", "wall time")


def used(system: System, request: StartRequested, since: datetime | None, until: datetime) -> Use:
    """What a job that ran since then used; nothing when it never ran."""
    if since is None or until <= since:
        return Use()
    cores, gpus = core_seconds(system, request, (until - since).total_seconds())
    return Use(core_seconds=cores, gpu_seconds=gpus)


def judge(
    request: StartRequested, finished: Finished, running_since: datetime | None, now: datetime
) -> tuple[Outcome, str, str]:
    """Outcome, reason and remedy of a job that ended by itself."""
    if finished.succeeded:
        return "finished", "The server ended by itself: it was shut down from inside.", ""
    said = f": {finished.words}" if finished.words else "."
    runtime = request.resources.runtime_seconds
    ran_out = running_since is not None and (now - running_since).total_seconds() >= 0.98 * runtime
    if ran_out or any(words in finished.words.lower() for words in _LIMIT_WORDS):
        return (
            "expired",
            f"The job reached its time limit of {runtime // 60} min{said}",
            "Ask for a longer runtime next time.",
        )
    if finished.exit_code == NOT_IN_TIME:
        return (
            "failed",
            f"JupyterLab did not start{said}",
            "Look at the log below; a full home directory or a broken Jupyter configuration are common causes.",
        )
    if finished.exit_code == UNWRITABLE:
        return (
            "failed",
            f"The job could not write its output{said}",
            "A full home directory is the usual cause: remove files there, then start the server again.",
        )
    code = f" with exit code {finished.exit_code}" if finished.exit_code is not None else ""
    return "failed", f"The job failed{code}{said}", "Look at the log below, then start the server again."


async def finish(
    site: Site, system: System, state: WithJob, owner: Owner, finished: Finished, since: datetime | None, now: datetime
) -> SessionEnded:
    """The end of a session whose job ended by itself."""
    outcome, reason, remedy = judge(state.request, finished, since, now)
    return ended(
        state.request,
        outcome,
        reason,
        remedy,
        exit_code=finished.exit_code,
        log_tail=await log_tail(site, state.job, owner, finished),
        use=used(system, state.request, since, now),
    )


async def log_tail(site: Site, job: str, owner: Owner, finished: Finished) -> LogTail:
    """The last lines of the job's output and of the site's log. Never fails: a session ends without them too."""
    tails = {"stdout": "", "stderr": ""}
    try:
        sizes = await site.sizes(job, owner)
        for name in tails:
            if size := sizes.get(name, 0):
                offset = max(0, size - TAIL_BYTES)
                content = await site.read(job, name, owner, offset=offset, length=TAIL_BYTES)
                tails[name] = content.decode(errors="replace")[-TAIL_BYTES:]
    except (TransientError, PermanentError) as error:
        _log.info("no log tail", job=job, reason=str(error))
    return LogTail(stdout=tails["stdout"], stderr=tails["stderr"], site=finished.log)
