"""`farlab reconcile SYSTEM --dry-run`: what the launcher's next rounds would do there. Removes nothing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence

import msgspec

from schemas.base import SessionId, SystemName
from schemas.lifecycle import Admitted, Ended, SessionState, WithJob
from schemas.subjects import Subjects
from services._launching.comparison import Nudge, TaggedJob, compare, overdue
from services._runtime.errors import PermanentError
from services._runtime.log import Log
from services._runtime.view import SessionView, placed
from services.cloud_launcher.pods import listed, strays
from services.cloud_launcher.ports import Cluster
from services.hpc_launcher.ports import Owner, Site
from services.hpc_launcher.script import owner_of


class Planned(msgspec.Struct, frozen=True, kw_only=True):
    """One difference between log and site: what would be done with which session or job, and why."""

    what: str
    session: str = ""
    job: str = ""
    why: str = ""


Jobs = Callable[[Mapping[SessionId, SessionState]], Awaitable[Sequence[TaggedJob]]]
"""What a system has of ours, given the states of the sessions the log knows there."""


async def plan(log: Log, subjects: Subjects, system: SystemName, jobs_there: Jobs) -> list[Planned]:
    """The launcher's own comparison for a system.

    Raises TransientError where log or system does not answer, PermanentError where the system refuses.
    """
    view = SessionView()
    following = await view.follow(log, [subjects.sessions(system=system)])
    await following.close()
    states = {session: known.state for session, known in view.known()}
    jobs = await jobs_there(states)
    # As the launcher does, by the log itself: a session the view forgot must not look unknown.
    wanted = {
        job.session: placed(await log.history("SESSIONS", subjects.session(job.session))).state
        for job in jobs
        if job.session is not None
    }
    rest = [
        Planned(what="decide anew", session=session, why=f"it rests in {type(state).__name__.lower()}")
        for session, state in states.items()
        if overdue(state)
    ]
    return rest + [
        Planned(what="decide anew", session=step.session, why="there is a job for it")
        if isinstance(step, Nudge)
        else Planned(what="remove job", job=step.job, why=step.why)
        for step in compare(wanted, jobs)
    ]


def jobs_at(site: Site, installation: str) -> Jobs:
    """The jobs at an HPC site of every user the log knows there."""

    async def found(states: Mapping[SessionId, SessionState]) -> list[TaggedJob]:
        known = {state.job for state in states.values() if isinstance(state, WithJob)}
        return [job for owner in _owners(states) for job in await site.tagged_jobs(installation, owner, known)]

    return found


def pods_at(cluster: Cluster) -> Jobs:
    """The pods on a cloud that are not there for a session that lives."""

    async def found(states: Mapping[SessionId, SessionState]) -> list[TaggedJob]:
        return [TaggedJob(seen.pod.job, seen.session) for seen in strays(states, await listed(cluster))]

    return found


def _owners(states: Mapping[SessionId, SessionState]) -> list[Owner]:
    """For whom the site may have jobs, each once."""
    owners: dict[Owner, None] = {}
    for state in states.values():
        if isinstance(state, Admitted | WithJob | Ended) and state.admission is not None:
            try:
                owners[owner_of(state.request, state.admission)] = None
            except PermanentError:
                continue
    return list(owners)
