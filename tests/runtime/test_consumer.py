"""The one handler: what it appends, what it does again, and what races cannot do to it."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Sequence
from pathlib import Path

import msgspec
import nats
import pytest

from schemas.lifecycle import Admitted, Created, Ended, Requested, SessionState, Stopping, Submitted
from schemas.session import AnySessionEvent, JobCreated, SessionEnded, SessionEvent, StartAdmitted, StartRequested
from schemas.subjects import Subjects
from services._runtime import topology
from services._runtime.consumer import SessionConsumer
from services._runtime.decider import Emit, Perform
from services._runtime.errors import PermanentError, TransientError
from services._runtime.jetstream import JetStreamLog
from services._runtime.log import Log
from services._runtime.memory import MemoryLog
from services._runtime.session_service import SessionService
from services._runtime.settings import Retention
from services._runtime.view import SessionView, placed
from tests.support.broker import nats_server
from tests.support.samples import Story, stamp

SUBJECTS = Subjects()


class Make(msgspec.Struct, frozen=True):
    """Make the job."""

    request: StartRequested


class Remove(msgspec.Struct, frozen=True):
    """Remove a job that is not wanted."""

    job: str


Command = Make | Remove


def decide(state: SessionState, event: AnySessionEvent | None) -> list[Emit | Perform[Command]]:
    match state:
        case Requested(request=request):
            return [Emit(StartAdmitted(hub=request.hub, system=request.system, session=request.session))]
        case Admitted(request=request):
            return [Perform(Make(request))]
        case Created(job=job) | Submitted(job=job) | Stopping(job=job) | Ended(job=job):
            stray = isinstance(event, JobCreated) and event.job != job
            return [Perform(Remove(event.job))] if stray and isinstance(event, JobCreated) else []
        case _:
            return []


def give_up(state: SessionState, error: PermanentError) -> list[Emit | Perform[Command]]:
    if isinstance(state, Admitted):
        r = state.request
        return [
            Emit(SessionEnded(hub=r.hub, system=r.system, session=r.session, outcome="failed", reason=error.reason))
        ]
    return []


class World:
    """Counts what was done, and fails as told."""

    def __init__(self, name: str = "one") -> None:
        self.name = name
        self.made: list[str] = []
        self.removed: list[str] = []
        self.error: Exception | None = None
        self.before = asyncio.Event()
        self.before.set()

    async def perform(self, command: Command) -> Sequence[SessionEvent]:
        if isinstance(command, Remove):
            self.removed.append(command.job)
            return []
        await self.before.wait()
        if self.error is not None:
            raise self.error
        r = command.request
        job = f"{self.name}-{len(self.made)}"
        self.made.append(job)
        return [JobCreated(hub=r.hub, system=r.system, session=r.session, job=job)]


async def consumer(log: Log, world: World) -> SessionConsumer[Command]:
    """A consumer as it is after a start of its service: its view has read the log."""
    view = SessionView()
    await view.follow(log, [SUBJECTS.sessions()])
    return SessionConsumer(
        log=log,
        subjects=SUBJECTS,
        view=view,
        stamp=stamp(world.name),
        decide=decide,
        perform=world.perform,
        give_up=give_up,
    )


async def append(log: Log, event: SessionEvent) -> tuple[SessionEvent, int]:
    scope = SUBJECTS.session(event.session)
    history = await log.history("SESSIONS", scope)
    after = history[-1].sequence if history else 0
    stamped = stamp("hub")(event, after=after, cause=None)
    return stamped, await log.append("SESSIONS", SUBJECTS.session_event(stamped), stamped, scope=scope, after=after)


async def names(log: Log, story: Story) -> list[str]:
    return [type(each.message).__name__ for each in await log.history("SESSIONS", SUBJECTS.session(story.session))]


async def test_one_message_causes_a_chain_of_facts_with_causes() -> None:
    log, world, story = MemoryLog(), World(), Story()
    request, sequence = await append(log, story.requested())
    await (await consumer(log, world)).handle(request, sequence)
    history = await log.history("SESSIONS", SUBJECTS.session(story.session))
    assert [type(each.message).__name__ for each in history] == ["StartRequested", "StartAdmitted", "JobCreated"]
    assert [each.message.cause for each in history] == [None, request.id, request.id]


async def test_doing_it_again_changes_nothing() -> None:
    log, world, story = MemoryLog(), World(), Story()
    request, sequence = await append(log, story.requested())
    for _ in range(3):
        await (await consumer(log, world)).handle(request, sequence)
    assert len(await names(log, story)) == 3
    assert world.made == ["one-0"]


async def test_a_stop_that_comes_while_the_job_is_made_leads_to_a_stop_with_that_job() -> None:
    log, world, story = MemoryLog(), World(), Story()
    world.before.clear()
    request, sequence = await append(log, story.requested())
    handling = asyncio.create_task((await consumer(log, world)).handle(request, sequence))
    async with asyncio.timeout(5):
        while len(await names(log, story)) < 2:
            await asyncio.sleep(0)
    await append(log, story.stop())
    world.before.set()
    await handling
    assert await names(log, story) == ["StartRequested", "StartAdmitted", "StopRequested", "JobCreated"]
    state = placed(await log.history("SESSIONS", SUBJECTS.session(story.session))).state
    assert isinstance(state, Stopping)
    assert state.job == "one-0"


async def test_a_job_made_after_the_end_is_shown_to_the_decider_and_removed() -> None:
    log, world, story = MemoryLog(), World(), Story()
    world.before.clear()
    request, sequence = await append(log, story.requested())
    handling = asyncio.create_task((await consumer(log, world)).handle(request, sequence))
    async with asyncio.timeout(5):
        while len(await names(log, story)) < 2:
            await asyncio.sleep(0)
    await append(log, story.ended())
    world.before.set()
    await handling
    assert world.removed == ["one-0"]
    assert (await names(log, story))[-1] == "SessionEnded"


async def test_what_can_never_work_becomes_an_event() -> None:
    log, world, story = MemoryLog(), World(), Story()
    world.error = PermanentError("no-such-queue", "There is no such queue.", "Choose another.")
    request, sequence = await append(log, story.requested())
    await (await consumer(log, world)).handle(request, sequence)
    state = placed(await log.history("SESSIONS", SUBJECTS.session(story.session))).state
    assert isinstance(state, Ended)
    assert state.end.reason == "There is no such queue."


async def test_what_may_work_later_is_raised_and_taken_up_where_it_was() -> None:
    log, world, story = MemoryLog(), World(), Story()
    world.error = TransientError("site down")
    request, sequence = await append(log, story.requested())
    with pytest.raises(TransientError):
        await (await consumer(log, world)).handle(request, sequence)
    world.error = None
    await (await consumer(log, world)).handle(request, sequence)
    assert await names(log, story) == ["StartRequested", "StartAdmitted", "JobCreated"]


async def test_a_fact_from_the_world_is_refused_where_it_makes_no_sense() -> None:
    log, world, story = MemoryLog(), World(), Story()
    await append(log, story.requested())
    assert not await (await consumer(log, world)).record(story.submitted())
    assert await names(log, story) == ["StartRequested"]


async def test_a_decider_that_does_not_settle_is_a_defect_and_not_an_endless_loop() -> None:
    log, world, story = MemoryLog(), World(), Story()
    request, sequence = await append(log, story.requested())
    restless = SessionConsumer(
        log=log,
        subjects=SUBJECTS,
        view=SessionView(),
        stamp=stamp(),
        decide=lambda state, event: [Perform(Remove("x")), Perform(Remove("y"))] * 200,
        perform=world.perform,
        give_up=give_up,
    )
    with pytest.raises(RuntimeError, match="does not settle"):
        await restless.handle(request, sequence)


async def test_replicas_that_race_make_one_job_each_and_remove_the_rest(tmp_path: Path) -> None:
    stories = [Story() for _ in range(60)]
    async with nats_server(tmp_path, sync="2m") as server:
        clients = [await nats.connect(server.url) for _ in range(3)]
        await topology.apply(clients[0].jetstream(), SUBJECTS, Retention())
        logs = [JetStreamLog(client, SUBJECTS) for client in clients]
        worlds = [World(f"world{number}") for number in range(3)]
        consumers = [await consumer(log, world) for log, world in zip(logs, worlds, strict=True)]
        requests = await asyncio.gather(*[append(logs[0], story.requested()) for story in stories])
        await asyncio.gather(*[each.handle(event, sequence) for each in consumers for event, sequence in requests])
        for story in stories:
            assert await names(logs[0], story) == ["StartRequested", "StartAdmitted", "JobCreated"]
        made = [job for world in worlds for job in world.made]
        removed = [job for world in worlds for job in world.removed]
        assert len(made) - len(removed) == 60
        for client in clients:
            await client.close()


async def test_a_service_goes_on_over_a_killed_broker_and_misses_nothing(tmp_path: Path) -> None:
    async with nats_server(tmp_path) as server:
        logs: list[JetStreamLog] = []

        async def reconnected() -> None:
            for log in logs:
                log.reconnected()

        client = await nats.connect(
            server.url, reconnect_time_wait=0.05, max_reconnect_attempts=-1, reconnected_cb=reconnected
        )
        await topology.apply(client.jetstream(), SUBJECTS, Retention())
        log = JetStreamLog(client, SUBJECTS)
        logs.append(log)
        world = World()
        service: SessionService[Command] = SessionService(
            service="svc",
            log=log,
            subjects=SUBJECTS,
            stamp=stamp("svc"),
            decide=decide,
            perform=world.perform,
            give_up=give_up,
            consumes=[StartRequested],
        )
        await service.start()
        seen: list[int] = []
        service.view.watch(lambda recorded, before, after: seen.append(recorded.sequence))
        stories = [Story() for _ in range(30)]
        for number, story in enumerate(stories):
            if number == 15:
                server.stop(signal.SIGKILL)
                await server.start()
            await append(log, story.requested())
        async with asyncio.timeout(20):
            while sum(isinstance(each.state, Created) for _, each in service.view.live()) < 30:
                await asyncio.sleep(0.02)
        assert sorted(seen) == list(range(1, 91))
        assert len(set(world.made)) == 30
        await service.close()
        await client.close()
