"""When a job is asked for, by which replica, and at what cost to the site."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest

from schemas.base import SessionId
from schemas.lifecycle import SessionState, WithStatus, fold
from schemas.session import JobStatusChanged, Running, SessionEnded, SessionEvent
from services._runtime.log import Recorded
from services._runtime.view import SessionView
from services.hpc_launcher.chronicle import Chronicle
from services.hpc_launcher.observe import Observer, Watched
from services.hpc_launcher.poller import Poller, interval_seconds
from services.hpc_launcher.ports import Inert, JobReport, Owner, Queued, Site
from services.hpc_launcher.ports import Running as RunningReport
from tests.support.catalogue import system
from tests.support.samples import NOW, Story, stamp

STORY = Story()
STARTED: list[SessionEvent] = [STORY.requested(), STORY.admitted(), STORY.created(), STORY.submitted()]
RUNS = JobStatusChanged(hub=STARTED[0].hub, system=STARTED[0].system, session=STORY.session, job_status=Running())


def state(*events: SessionEvent) -> WithStatus:
    folded: SessionState = fold(events)  # type: ignore[arg-type]
    assert isinstance(folded, WithStatus)
    return folded


@pytest.mark.parametrize(
    ("events", "watched", "seconds"),
    [
        (STARTED, Watched(changed_at=100), 2),
        (STARTED, Watched(changed_at=0), 10),
        (STARTED, Watched(changed_at=-10_000), 60),
        ([*STARTED, RUNS], Watched(changed_at=0), 2),
        ([*STARTED, STORY.listening()], Watched(changed_at=100), 4),
        ([*STARTED, STORY.listening()], Watched(changed_at=0), 20),
        (STARTED, Watched(changed_at=0, missing=1), 2),
        (STARTED, Watched(changed_at=0, errors=2), 8),
        (STARTED, Watched(changed_at=0, errors=50), 60),
    ],
)
def test_a_job_is_asked_for_as_often_as_someone_waits_for_it(
    events: list[SessionEvent], watched: Watched, seconds: float
) -> None:
    assert interval_seconds(state(*events), watched, 100.0, system()) == pytest.approx(seconds)


class Asked:
    """A site that counts reports and says what it is told to. Omits making, ending and files of jobs."""

    def __init__(self) -> None:
        self.reports: list[str] = []
        self.says: JobReport = Queued()
        self.files: dict[str, int] = {}
        self.started: list[str] = []
        self.asked = asyncio.Event()

    async def report(self, job: str, owner: Owner) -> JobReport:
        self.reports.append(job)
        self.asked.set()
        return self.says

    async def sizes(self, job: str, owner: Owner) -> Mapping[str, int]:
        return self.files

    async def start(self, job: str, owner: Owner) -> None:
        self.started.append(job)


class Setting:
    """A poller over a view that a test feeds, with a clock it drives."""

    def __init__(self) -> None:
        self.clock = 1000.0
        self.view, self.site = SessionView(), Asked()
        self.recorded: list[SessionEvent] = []
        site: Site = self.site  # type: ignore[assignment]
        observer = Observer(
            system=system(),
            site=site,
            chronicle=Chronicle(),
            record=self.record,
            now=lambda: NOW,
            clock=lambda: self.clock,
        )
        self.poller = Poller(system=system(), view=self.view, observer=observer, clock=lambda: self.clock)
        self.view.watch(self.poller.observe)
        self._sequence = 0

    async def record(self, event: SessionEvent) -> bool:
        self.recorded.append(event)
        self.learn(event)
        return True

    def learn(self, *events: SessionEvent) -> None:
        for event in events:
            self._sequence += 1
            self.view.learn(Recorded(self._sequence, stamp()(event, after=self._sequence, cause=None)))

    def begin(self, *stories: Story) -> None:
        for story in stories:
            self.learn(story.requested(), story.admitted(), story.created(f"job-{story.session}"), story.submitted())


async def running(setting: Setting) -> asyncio.Task[None]:
    task = asyncio.create_task(setting.poller.run())
    await asyncio.sleep(0)
    return task


async def test_only_the_replica_with_the_lease_asks() -> None:
    setting = Setting()
    task = await running(setting)
    setting.begin(STORY)
    for _ in range(20):
        await asyncio.sleep(0)
    assert setting.site.reports == []
    setting.poller.activate(True)
    await asyncio.wait_for(setting.site.asked.wait(), 5)
    setting.poller.activate(False)
    count = len(setting.site.reports)
    setting.clock += 1000
    for _ in range(20):
        await asyncio.sleep(0)
    assert len(setting.site.reports) == count
    task.cancel()


async def test_a_restart_with_many_sessions_does_not_storm_the_site() -> None:
    setting = Setting()
    stories = [Story() for _ in range(500)]
    setting.begin(*stories)
    for story in stories:
        setting.learn(story.listening())
    task = await running(setting)
    setting.poller.activate(True)
    for _ in range(200):
        await asyncio.sleep(0)
    assert len(setting.site.reports) < 50
    task.cancel()


async def test_a_hint_in_the_moment_a_look_ends_does_not_make_the_job_forgotten() -> None:
    """The look's task is over, its place is not given back yet, and the poller already looks for what is due."""
    setting = Setting()
    setting.begin(STORY)
    setting.learn(STORY.listening())
    poller, loop = setting.poller, asyncio.get_running_loop()
    look = poller.poll

    def hinted() -> None:
        poller.hint(STORY.session)
        poller._begin_due()

    async def poll(session: SessionId) -> None:
        await look(session)
        loop.call_soon(hinted)

    poller.poll = poll  # type: ignore[method-assign]
    poller.hint(STORY.session)
    poller._begin_due()
    poller.poll = look  # type: ignore[method-assign]
    for _ in range(20):
        await asyncio.sleep(0)
    task = await running(setting)
    async with asyncio.timeout(5):
        while len(setting.site.reports) < 2:
            await asyncio.sleep(0)
    for _ in range(3):
        setting.clock += 60
        count = len(setting.site.reports)
        poller._wake.set()
        async with asyncio.timeout(5):
            while len(setting.site.reports) == count:
                await asyncio.sleep(0)
    task.cancel()


async def test_a_hint_asks_now_and_an_ended_session_is_left_alone() -> None:
    setting = Setting()
    setting.begin(STORY)
    setting.learn(STORY.listening())
    task = await running(setting)
    setting.poller.hint(STORY.session)
    await asyncio.wait_for(setting.site.asked.wait(), 5)
    setting.learn(STORY.stop(), STORY.ended())
    count = len(setting.site.reports)
    setting.poller.hint(STORY.session)
    for _ in range(20):
        await asyncio.sleep(0)
    assert len(setting.site.reports) == count
    task.cancel()


async def test_only_changes_are_recorded() -> None:
    setting = Setting()
    setting.begin(STORY)
    setting.poller.activate(True)
    for _ in range(3):
        await setting.poller.poll(STORY.session)
    assert setting.recorded == []
    setting.site.says = Queued(words="waiting: Priority")
    for _ in range(3):
        await setting.poller.poll(STORY.session)
    setting.site.says = RunningReport()
    for _ in range(3):
        await setting.poller.poll(STORY.session)
    statuses = [(event.job_status, event.words) for event in setting.recorded if isinstance(event, JobStatusChanged)]
    assert [words for _, words in statuses] == ["waiting: Priority", ""]
    assert isinstance(statuses[-1][0], Running)


@pytest.mark.parametrize(("left", "started"), [({}, 1), ({"stdout": 0}, 1), ({"farlab-progress.jsonl": 9}, 0)])
async def test_a_start_the_site_forgot_is_made_again_unless_the_job_ran(left: dict[str, int], started: int) -> None:
    setting = Setting()
    setting.begin(STORY)
    setting.poller.activate(True)
    setting.site.files = left
    for says in (Inert(), Inert(), Queued(), Inert(), Inert()):
        setting.site.says = says
        await setting.poller.poll(STORY.session)
    assert setting.site.started == []
    for _ in range(3):
        setting.site.says = Inert()
        await setting.poller.poll(STORY.session)
    assert setting.site.started == [f"job-{STORY.session}"] * started
    assert [event.outcome for event in setting.recorded if isinstance(event, SessionEnded)] == ["lost"] * (1 - started)


async def test_sessions_of_other_systems_are_not_ours() -> None:
    setting = Setting()
    other = Story()
    for event in (other.requested(), other.admitted(), other.created(), other.submitted()):
        import msgspec

        setting.learn(msgspec.structs.replace(event, system="another"))
    setting.poller.activate(True)
    await setting.poller.poll(other.session)
    assert setting.site.reports == []
