"""The whole launcher through what goes wrong: lost answers, crashes, silent sites, passed deadlines, failing jobs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from pathlib import Path

from emulators.unicore_site.faults import Fault
from emulators.unicore_site.site import UnicoreSite
from schemas.lifecycle import Ended, Listening, Stopping, Submitted
from schemas.session import SessionEnded
from services._runtime.service import utc_now
from services.hpc_launcher import script
from services.hpc_launcher.app import site_of
from tests.services.hpc_launcher import stand_in
from tests.services.hpc_launcher.stage import CANARY, Stage, emulated_site, system_at
from tests.support.samples import NOW, Story

JOBS = r"/rest/core/jobs$"


@asynccontextmanager
async def stage_on(
    folder: Path, *, queue_seconds: float = 0.0, now: Callable[[], datetime] = utc_now, start: bool = True
) -> AsyncIterator[tuple[Stage, UnicoreSite]]:
    async with emulated_site(folder, queue_seconds=queue_seconds) as (site, key):
        prologue = [f"export PYTHONPATH={stand_in.install(folder)}"]
        stage = Stage(system_at(site, key, prologue=prologue, server_start_seconds=20), folder, now=now)
        if start:
            await stage.app.start()
        try:
            yield stage, site
        finally:
            await stage.app.close()


async def gone(stage: Stage, site: UnicoreSite) -> None:
    """Nothing outlives its session: no job, no directory, no secret."""
    await stage.log.settled()
    assert site.store.jobs == {}
    assert not list((Path(site.configuration.folder) / "jobs").glob("*"))
    assert await stage.bucket.keys() == []


async def end_of(stage: Stage, story: Story) -> SessionEnded:
    state = await stage.until(story, Ended)
    assert isinstance(state, Ended)
    return state.end


async def test_a_start_and_a_stop(tmp_path: Path) -> None:
    async with stage_on(tmp_path) as (stage, site):
        story = Story()
        await stage.admit(story)
        await stage.until(story, Listening)
        await stage.append(story.stop())
        end = await end_of(stage, story)
        assert (end.outcome, end.reason) == ("stopped", "Stopped by ada: enough")
        await gone(stage, site)
        said = [
            each.message
            for each in await stage.log.history("SESSIONS", f"farlab.v1.session.*.*.{story.session}.progress-reported")
        ]
        assert [each.message for each in said] == [  # type: ignore[attr-defined]
            "Loading software",
            "The job runs on 127.30.0.21",
            "Starting JupyterLab",
            "JupyterLab accepts connections",
        ]
        assert (await stage.events(story)).count("JobCreated") == 1
        assert CANARY.encode() not in b"".join(stored.body for stored in stage.log.stored["SESSIONS"])


async def test_a_start_is_cancelled_while_it_queues(tmp_path: Path) -> None:
    async with stage_on(tmp_path, queue_seconds=3600) as (stage, site):
        story = Story()
        await stage.admit(story)
        await stage.until(story, Submitted)
        await stage.append(story.stop())
        assert (await end_of(stage, story)).outcome == "stopped"
        await gone(stage, site)


async def test_a_start_is_cancelled_before_the_launcher_saw_it(tmp_path: Path) -> None:
    async with stage_on(tmp_path, start=False) as (stage, site):
        story = Story()
        await stage.admit(story)
        await stage.append(story.stop())
        await stage.app.start()
        assert (await end_of(stage, story)).outcome == "stopped"
        assert "JobCreated" not in await stage.events(story)
        await gone(stage, site)


async def test_a_lost_answer_makes_no_second_job(tmp_path: Path) -> None:
    async with stage_on(tmp_path) as (stage, site):
        site.faults.planned.append(Fault(kind="drop-after", method="POST", path=JOBS))
        story = Story()
        await stage.admit(story)
        await stage.log.settled()
        assert len(site.store.jobs) == 1
        await stage.said(story, "ProgressReported")
        assert await stage.events(story) == ["StartRequested", "StartAdmitted", "ProgressReported"]
        stage.log.redeliver("hpc-launcher")
        await stage.until(story, Listening)
        assert len(site.store.jobs) == 1


async def test_what_a_crash_left_is_adopted_and_doubles_are_removed(tmp_path: Path) -> None:
    async with stage_on(tmp_path, start=False) as (stage, site):
        story = Story()
        request = story.requested()
        owner = script.owner_of(request, story.admitted())
        before = site_of(stage.system)
        for _ in range(2):
            await before.create(script.description(stage.system, "farlab", request, owner), owner)
        await before.close()
        await stage.admit(story)
        await stage.app.start()
        listening = await stage.until(story, Listening)
        assert isinstance(listening, Listening)
        assert {job.status for job in site.store.jobs.values() if job.id != listening.job} == {"READY"}  # inert
        await stage.app.reconcilers[stage.system.name].reconcile()
        assert set(site.store.jobs) == {listening.job}


async def test_two_replicas_make_one_job(tmp_path: Path) -> None:
    async with stage_on(tmp_path) as (stage, site):
        other = stage.launcher("two")
        await other.start()
        stories = [Story() for _ in range(5)]
        for story in stories:
            await stage.admit(story, STAND_IN="hang")
            stage.log.redeliver("hpc-launcher")
        for story in stories:
            await stage.until(story, Submitted)
        await stage.log.settled()
        assert len(site.store.jobs) == len(stories)
        assert sorted(job.id for job in site.store.jobs.values()) == sorted(
            [state.job for story in stories if isinstance(state := await stage.state(story), Submitted)]
        )
        await other.close()


async def test_a_failing_job_ends_with_its_last_words(tmp_path: Path) -> None:
    async with stage_on(tmp_path) as (stage, site):
        story = Story()
        await stage.admit(story, STAND_IN="fail")
        end = await end_of(stage, story)
        assert (end.outcome, end.exit_code) == ("failed", 3)
        assert "no such module: torch" in end.log_tail.stderr
        assert "Status set to RUNNING" in end.log_tail.site
        assert end.remedy
        await gone(stage, site)


async def test_a_server_shut_down_from_inside_is_finished(tmp_path: Path) -> None:
    async with stage_on(tmp_path) as (stage, site):
        story = Story()
        await stage.admit(story, STAND_IN="quit")
        end = await end_of(stage, story)
        assert (end.outcome, end.exit_code) == ("finished", 0)
        assert "ServerListening" in await stage.events(story)
        await gone(stage, site)


async def test_a_silent_site_makes_a_running_job_unknown_and_nothing_worse(tmp_path: Path) -> None:
    async with stage_on(tmp_path) as (stage, site):
        story = Story()
        await stage.admit(story)
        await stage.until(story, Listening)
        site.faults.planned.append(Fault(kind="error500", method="GET", path="/jobs/[0-9a-f]+$", times=6))
        await _status(stage, story, "unknown")
        await _status(stage, story, "running")
        assert isinstance(await stage.state(story), Listening)


async def test_a_job_removed_at_the_site_is_lost(tmp_path: Path) -> None:
    async with stage_on(tmp_path) as (stage, site):
        story = Story()
        await stage.admit(story)
        await stage.until(story, Listening)
        for job in list(site.store.jobs.values()):
            await site.store.delete(job)
        end = await end_of(stage, story)
        assert (end.outcome, end.reason) == ("lost", "Demo HPC no longer knows the job: it was removed there.")
        await gone(stage, site)


async def test_a_start_that_waits_longer_than_its_deadline_is_expired_and_its_job_removed(tmp_path: Path) -> None:
    late = False
    async with stage_on(tmp_path, queue_seconds=3600, now=lambda: NOW + timedelta(hours=25) if late else NOW) as (
        stage,
        site,
    ):
        story = Story()
        await stage.admit(story)
        await stage.until(story, Submitted)
        late = True
        end = await end_of(stage, story)
        assert end.outcome == "expired"
        assert "before the deadline" in end.reason
        assert end.remedy
        await gone(stage, site)


async def test_a_site_that_takes_no_jobs_is_waited_for_until_the_deadline(tmp_path: Path) -> None:
    late = False
    async with stage_on(tmp_path, now=lambda: NOW + timedelta(hours=25) if late else NOW) as (stage, site):
        site.faults.planned.append(Fault(kind="submission-disabled", method="POST", path=JOBS, times=100))
        story = Story()
        await stage.admit(story)
        await stage.said(story, "ProgressReported")
        assert await stage.events(story) == ["StartRequested", "StartAdmitted", "ProgressReported"]
        late = True
        stage.log.redeliver("hpc-launcher")
        end = await end_of(stage, story)
        assert end.outcome == "expired"
        assert "maintenance of the file system until noon" in end.reason
        await gone(stage, site)


async def test_a_start_the_site_refuses_fails_at_once_with_a_remedy(tmp_path: Path) -> None:
    async with stage_on(tmp_path) as (stage, site):
        story = Story()
        await stage.vault.put(story.session, "hpc-launcher", {"environment": {}, "proof_key": "00" * 32})
        await stage.append(story.requested(partition="nosuch"), story.admitted())
        end = await end_of(stage, story)
        assert end.outcome == "failed"
        assert "No such queue: nosuch" in end.reason
        assert end.remedy
        await gone(stage, site)


async def test_a_start_without_its_secrets_fails_before_any_job(tmp_path: Path) -> None:
    async with stage_on(tmp_path) as (stage, site):
        story = Story()
        await stage.append(story.requested(), story.admitted())
        end = await end_of(stage, story)
        assert (end.outcome, end.remedy) == ("failed", "Start the server again.")
        assert site.requests["POST /DEMO/rest/core/jobs"] == 0


async def test_a_stop_is_tried_until_the_job_is_gone(tmp_path: Path) -> None:
    async with stage_on(tmp_path) as (stage, site):
        story = Story()
        await stage.admit(story)
        await stage.until(story, Listening)
        site.faults.planned.append(Fault(kind="error500", method="POST", path="/actions/abort", times=2))
        await stage.append(story.stop())
        await stage.log.settled()
        for _ in range(2):
            assert isinstance(await stage.state(story), Stopping)
            stage.log.redeliver("hpc-launcher")
            await stage.log.settled()
        assert (await end_of(stage, story)).outcome == "stopped"
        await gone(stage, site)


async def test_what_cannot_be_cleared_away_at_the_end_is_cleared_away_later(tmp_path: Path) -> None:
    async with stage_on(tmp_path) as (stage, site):
        story = Story()
        await stage.admit(story)
        await stage.until(story, Listening)
        site.faults.planned.append(Fault(kind="drop", method="DELETE", times=3))
        await stage.append(story.stop())
        await end_of(stage, story)
        await stage.log.settled()
        assert len(site.store.jobs) == 1
        assert await stage.bucket.keys() == []
        for _ in range(3):
            stage.log.redeliver("hpc-launcher")
            await stage.log.settled()
        await gone(stage, site)


async def test_a_restarted_launcher_carries_on(tmp_path: Path) -> None:
    async with stage_on(tmp_path, queue_seconds=0.5) as (stage, site):
        story = Story()
        await stage.admit(story)
        await stage.until(story, Submitted)
        await stage.app.close()
        stage.app = stage.launcher()
        await stage.app.start()
        await stage.until(story, Listening)
        assert len(site.store.jobs) == 1
        seen = await stage.events(story)
        assert seen.count("JobSubmitted") == 1


async def test_reconciliation_removes_our_orphans_and_nobody_elses(tmp_path: Path) -> None:
    async with stage_on(tmp_path) as (stage, site):
        story, over = Story(), Story()
        await stage.admit(story)
        await stage.until(story, Listening)
        before = site_of(stage.system)
        owner = script.owner_of(over.requested(), over.admitted())
        orphan = await before.create(script.description(stage.system, "farlab", over.requested(), owner), owner)
        foreign = await before.create(script.description(stage.system, "another", over.requested(), owner), owner)
        double = await before.create(script.description(stage.system, "farlab", story.requested(), owner), owner)
        await before.close()
        listening = await stage.state(story)
        assert isinstance(listening, Listening)
        await stage.app.reconcilers[stage.system.name].reconcile()
        assert set(site.store.jobs) == {listening.job, foreign}
        assert {orphan, double} & set(site.store.jobs) == set()


async def test_a_job_that_lies_about_its_endpoint_is_not_believed(tmp_path: Path) -> None:
    async with stage_on(tmp_path) as (stage, site):
        story = Story()
        await stage.admit(story, STAND_IN="hang")
        await _status(stage, story, "running")
        [job] = site.store.jobs.values()
        work = site.store.working_directory(job)
        (work / "farlab-endpoint.json").write_text('{"host": "127.0.0.1", "port": 22}')
        (work / "farlab-progress.jsonl").open("a").write('{"percent": 50, "message": "<script>"}\n')
        await _event(stage, story, "<script>")
        assert isinstance(await stage.state(story), Submitted)


async def _status(stage: Stage, story: Story, status: str) -> None:
    await _event(stage, story, f'"status":"{status}"')


async def _event(stage: Stage, story: Story, text: str) -> None:
    """Waits for an event of the session after now, whose body holds the text."""
    known = len(stage.log.stored["SESSIONS"]) if status_was_seen(stage, text) else 0
    changed = asyncio.Event()
    stage.app.sessions.view.watch(lambda *_: changed.set())
    async with asyncio.timeout(20):
        while not any(text.encode() in each.body for each in stage.log.stored["SESSIONS"][known:]):
            changed.clear()
            await changed.wait()


def status_was_seen(stage: Stage, text: str) -> bool:
    return any(text.encode() in each.body for each in stage.log.stored["SESSIONS"])
