"""`farlab reconcile SYSTEM --dry-run`: what the launcher's next rounds would do at a site. Removes nothing."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from schemas.base import SessionId
from schemas.lifecycle import Admitted, Ended, SessionState, WithJob
from schemas.subjects import Subjects
from services._runtime.errors import PermanentError
from services._runtime.log import Log
from services._runtime.systems import System
from services._runtime.view import SessionView, placed
from services.hpc_launcher.ports import Owner, Site
from services.hpc_launcher.reconcile import Nudge, compare, overdue
from services.hpc_launcher.script import owner_of


class Planned(msgspec.Struct, frozen=True, kw_only=True):
    """One difference between log and site: what would be done with which session or job, and why."""

    what: str
    session: str = ""
    job: str = ""
    why: str = ""


async def plan(installation: str, log: Log, subjects: Subjects, system: System, site: Site) -> list[Planned]:
    """The launcher's own comparison, for every user the log knows on the system.

    Raises TransientError where log or site does not answer, PermanentError where the site refuses.
    """
    view = SessionView()
    following = await view.follow(log, [subjects.sessions(system=system.name)])
    await following.close()
    states = {session: known.state for session, known in view.known()}
    known_jobs = {state.job for state in states.values() if isinstance(state, WithJob)}
    found = [
        Planned(what="decide anew", session=session, why=f"it rests in {type(state).__name__.lower()}")
        for session, state in states.items()
        if overdue(state)
    ]
    for owner in _owners(states):
        jobs = await site.tagged_jobs(installation, owner, known_jobs)
        # As the launcher does, by the log itself: a session the view forgot must not look unknown.
        wanted = {
            job.session: placed(await log.history("SESSIONS", subjects.session(job.session))).state
            for job in jobs
            if job.session is not None
        }
        for step in compare(wanted, jobs):
            if isinstance(step, Nudge):
                found.append(Planned(what="decide anew", session=step.session, why="the site has a job for it"))
            else:
                found.append(Planned(what="remove job", job=step.job, why=step.why))
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
