"""What others append between a decision and its append, what is only nudged, and what is given up from outside."""

from __future__ import annotations

import asyncio

import pytest
from structlog.testing import capture_logs

from schemas.base import Message
from schemas.lifecycle import Admitted, Ended, SessionState, Stopping, Withdrawn
from schemas.session import AnySessionEvent, JobCreated, SessionEnded, SessionEvent, StartRequested, StopRequested
from services._runtime.consumer import SessionConsumer
from services._runtime.decider import Decide, Emit, Perform
from services._runtime.errors import PermanentError
from services._runtime.log import Log, Recorded, Stream
from services._runtime.memory import MemoryLog
from services._runtime.session_service import SessionService
from services._runtime.view import SessionView, placed
from tests.runtime.test_consumer import SUBJECTS, Command, World, append, consumer, decide, give_up, names
from tests.support.samples import Story, stamp


async def state_of(log: Log, story: Story) -> SessionState:
    return placed(await log.history("SESSIONS", SUBJECTS.session(story.session))).state


async def admission_of(log: Log, story: Story) -> None:
    async with asyncio.timeout(5):
        while len(await names(log, story)) < 2:
            await asyncio.sleep(0)


def consumer_with(log: Log, view: SessionView, world: World, decides: Decide[Command]) -> SessionConsumer[Command]:
    return SessionConsumer(
        log=log,
        subjects=SUBJECTS,
        view=view,
        stamp=stamp(),
        decide=decides,
        perform=world.perform,
        give_up=give_up,
    )


class Meddled(MemoryLog):
    """A log in which somebody else appends right before our next append."""

    def __init__(self) -> None:
        super().__init__()
        self.meddle: list[SessionEvent] = []

    async def append(self, stream: Stream, subject: str, message: Message, *, scope: str, after: int) -> int:
        if self.meddle and message.source != "hub":
            await append(self, self.meddle.pop(0))
        return await super().append(stream, subject, message, scope=scope, after=after)


async def test_a_stop_that_came_before_the_start_was_handled_leaves_nothing_to_do() -> None:
    log, world, story = MemoryLog(), World(), Story()
    request, sequence = await append(log, story.requested())
    await append(log, story.stop())
    await (await consumer(log, world)).handle(request, sequence)
    assert await names(log, story) == ["StartRequested", "StopRequested"]
    assert isinstance(await state_of(log, story), Withdrawn)
    assert world.made == []


async def test_what_was_decided_on_an_old_state_is_refused_and_decided_again() -> None:
    """The stop wins: the admission that lost must neither be appended nor lead to a job."""
    log, world, story = Meddled(), World(), Story()
    request, sequence = await append(log, story.requested())
    log.meddle = [story.stop()]
    await (await consumer(log, world)).handle(request, sequence)
    assert await names(log, story) == ["StartRequested", "StopRequested"]
    assert world.made == []


async def test_what_is_still_right_is_appended_after_what_came_between() -> None:
    log, world, story = Meddled(), World(), Story()
    request, sequence = await append(log, story.requested())
    await append(log, story.admitted())
    log.meddle = [story.stop()]
    await (await consumer(log, world)).handle(request, sequence)
    assert await names(log, story) == ["StartRequested", "StartAdmitted", "StopRequested", "JobCreated"]
    assert isinstance(await state_of(log, story), Stopping)


async def test_a_session_in_many_hands_of_one_process_is_handled_one_after_the_other() -> None:
    log, world, story = MemoryLog(), World(), Story()
    world.before.clear()
    request, sequence = await append(log, story.requested())
    one = await consumer(log, world)
    handling = [asyncio.create_task(one.handle(request, sequence)) for _ in range(5)]
    await admission_of(log, story)
    world.before.set()
    await asyncio.gather(*handling)
    assert world.made == ["one-0"]
    assert one._locks == {}, "no lock outlives its session"


async def test_two_sessions_do_not_wait_for_each_other() -> None:
    log, world, slow, quick = MemoryLog(), World(), Story(), Story()
    world.before.clear()
    one = await consumer(log, world)
    first = asyncio.create_task(one.handle(*await append(log, slow.requested())))
    await admission_of(log, slow)
    request, sequence = await append(log, quick.requested())
    await append(log, quick.stop())
    async with asyncio.timeout(5):
        await one.handle(request, sequence)
    assert not first.done()
    world.before.set()
    await first


async def test_a_nudge_does_what_the_state_alone_demands() -> None:
    log, world, story = MemoryLog(), World(), Story()
    one = await consumer(log, world)
    await one.nudge(story.session)
    await append(log, story.requested())
    await append(log, story.admitted())
    await one.nudge(story.session)
    await one.nudge(story.session)
    history = await log.history("SESSIONS", SUBJECTS.session(story.session))
    assert [type(each.message) for each in history][2:] == [JobCreated]
    assert history[2].message.cause is None, "nothing in the log caused it"
    assert world.made == ["one-0"]


async def test_giving_up_from_outside_says_so_once() -> None:
    log, world, story = MemoryLog(), World(), Story()
    one = await consumer(log, world)
    for event in (story.requested(), story.admitted()):
        await append(log, event)
    for _ in range(2):
        await one.fail(story.session, PermanentError("broken", "It is broken.", "Try again."))
    assert await names(log, story) == ["StartRequested", "StartAdmitted", "SessionEnded"]


async def test_a_fact_is_recorded_reacted_to_and_not_doubled() -> None:
    log, world, story = MemoryLog(), World(), Story()
    for event in (story.requested(), story.admitted()):
        await append(log, event)
    one = await consumer(log, world)
    assert await one.record(story.created("found-at-site"))
    assert not await one.record(story.created("found-at-site"))
    assert not await one.record(story.created("another"))
    assert (await names(log, story)).count("JobCreated") == 1
    assert world.made == []


async def test_the_decider_sees_each_event_with_its_state_and_strays_too() -> None:
    shown: list[tuple[str, str]] = []
    log, view, world, story = MemoryLog(), SessionView(), World(), Story()

    def watching(state: SessionState, event: AnySessionEvent | None) -> list[Emit | Perform[Command]]:
        shown.append((type(state).__name__, type(event).__name__))
        return decide(state, event)

    await view.follow(log, [SUBJECTS.sessions()])
    one = consumer_with(log, view, world, watching)
    request, sequence = await append(log, story.requested())
    world.before.clear()
    handling = asyncio.create_task(one.handle(request, sequence))
    await admission_of(log, story)
    await append(log, story.ended())
    world.before.set()
    await handling
    assert shown == [("Requested", "StartRequested"), ("Admitted", "StartAdmitted"), ("Ended", "JobCreated")]
    await one.nudge(story.session)
    assert shown[-1] == ("Ended", "NoneType")


async def test_a_consumer_ahead_of_its_follower_reads_the_history_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services._runtime.consumer.FOLLOWER_BEHIND_SECONDS", 0.01)
    log, world, story = MemoryLog(), World(), Story()
    await append(log, story.requested())
    admitted, sequence = await append(log, story.admitted())
    await consumer_with(log, SessionView(), world, decide).handle(admitted, sequence)
    assert await names(log, story) == ["StartRequested", "StartAdmitted", "JobCreated"]


def service_on(log: Log, world: World, consumes: list[type[SessionEvent]], system: str) -> SessionService[Command]:
    return SessionService(
        service="svc",
        log=log,
        subjects=SUBJECTS,
        stamp=stamp("svc"),
        decide=decide,
        perform=world.perform,
        give_up=give_up,
        consumes=consumes,
        systems=[system],
    )


async def test_a_service_tells_the_user_of_its_own_defect_and_keeps_the_message() -> None:
    """From delivery to the user's eyes: the whole chain with a defect in the middle."""
    log, world, story = MemoryLog(), World(), Story()
    world.error = ZeroDivisionError("details of the defect")
    service = service_on(log, world, [StartRequested], "demo-hpc")
    await service.start()
    await append(log, story.requested())
    with capture_logs() as logged:
        for _ in range(10):
            await log.settled()
            log.redeliver("svc")
        await log.settled()
    state = await state_of(log, story)
    assert isinstance(state, Ended)
    assert "details of the defect" not in state.end.reason
    assert [dead.body for dead in log.dead] == [log.stored["SESSIONS"][0].body]
    [buried] = [line for line in logged if line["event"] == "dead letter"]
    assert isinstance(buried["exc_info"], ZeroDivisionError), "whoever looks into the log finds the defect"
    await service.close()


async def test_a_service_takes_only_what_it_consumes_of_the_places_it_serves() -> None:
    log, world, story = MemoryLog(), World(), Story()
    seen: list[Recorded] = []
    service = service_on(log, world, [StopRequested, SessionEnded], "elsewhere")
    await service.start()
    service.view.watch(lambda recorded, before, after: seen.append(recorded))
    for event in (story.requested(), story.stop()):
        await append(log, event)
    await log.settled()
    assert (seen, list(service.view.live())) == ([], [])
    assert isinstance(await state_of(log, story), Withdrawn)
    await service.close()


async def test_what_is_given_up_on_an_old_state_is_not_said_of_a_new_one() -> None:
    """Another replica made the job meanwhile: the end that this one decided on would come while the job runs."""
    log, story, view = Meddled(), Story(), SessionView()
    await append(log, story.requested())
    admission, sequence = await append(log, story.admitted())
    asked: list[str] = []

    def decides(state: SessionState, _event: AnySessionEvent | None) -> list[Emit | Perform[str]]:
        asked.append(type(state).__name__)
        return [Perform("make the job")] if isinstance(state, Admitted) else []

    async def perform(_command: str) -> list[SessionEvent]:
        raise PermanentError("deadline-passed", "too late", "later")

    await view.follow(log, [SUBJECTS.sessions()])
    taken = SessionConsumer[str](
        log=log,
        subjects=SUBJECTS,
        view=view,
        stamp=stamp(),
        decide=decides,
        perform=perform,
        give_up=lambda _state, _error: [Emit(story.ended())],
    )
    log.meddle = [story.created()]
    await taken.handle(admission, sequence)
    assert await names(log, story) == ["StartRequested", "StartAdmitted", "JobCreated"]
    assert asked == ["Admitted", "Created"]
