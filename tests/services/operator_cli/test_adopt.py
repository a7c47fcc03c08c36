"""`farlab adopt` at an emulated site: a job whose tags and answer were lost becomes its session's, and runs."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, cast

from schemas.acts import AdoptionRequested
from schemas.lifecycle import Admitted, Submitted
from schemas.session import JobCreated
from services._runtime.errors import TransientError
from services.hpc_launcher.app import site_of
from services.hpc_launcher.ports import JobDescription, Owner, Site
from services.operator_cli.acts.append import Operator
from services.operator_cli.acts.settle import adoption, ask
from tests.services.hpc_launcher.stage import SUBJECTS, Stage, emulated_site, system_at
from tests.support.samples import Story, stamp


class LosesAnswers:
    """A site that makes a job, loses its answer, and finds it by no tag. Everything else is the site's."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self.made: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def find(self, _marks: Any, _owner: Owner) -> list[str]:
        return []

    async def create(self, description: JobDescription, owner: Owner) -> str:
        job = await self._site.create(description, owner)
        self.made.set_result(job)
        raise TransientError("the answer was lost", 3600.0)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._site, name)


async def test_a_job_that_reconciliation_cannot_find_is_adopted_and_runs(tmp_path: Path) -> None:
    async with emulated_site(tmp_path) as (emulated, key):
        system = system_at(emulated, key)
        site = LosesAnswers(site_of(system))
        stage, story = Stage(system, tmp_path, cast(Site, site)), Story()
        await stage.app.start()
        try:
            await stage.admit(story)
            async with asyncio.timeout(20):
                job = await site.made
            state = await stage.state(story)
            assert isinstance(state, Admitted), "the log knows of no job, and the launcher finds none"
            hand = Operator(stage.log, SUBJECTS, stamp("farlab/operator-cli"))
            said = await ask(hand, adoption(state, job, "seen at the site"))
            assert said.startswith("done: JobCreated is event 4"), "after the word that the start waits for its site"
            submitted = await stage.until(story, Submitted)
            assert isinstance(submitted, Submitted)
            assert submitted.job == job
            assert [each.id for each in emulated.store.jobs.values()] == [job]
            [act] = await stage.log.history("ACTS", SUBJECTS.session_acts("hpc-launcher"))
            [created] = [
                each.message
                for each in await stage.log.history("SESSIONS", SUBJECTS.session(story.session))
                if isinstance(each.message, JobCreated)
            ]
            assert isinstance(act.message, AdoptionRequested)
            assert created.cause == act.message.id
        finally:
            await stage.app.close()
