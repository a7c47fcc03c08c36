"""The follower of all spawners, on the log in memory: states, stories, waiting; and the last step of a start."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from schemas.lifecycle import Ended, NotStarted, Reachable, Ready, Submitted
from schemas.session import SessionEvent, TunnelReady
from schemas.subjects import Subjects
from services._runtime.memory import MemoryLog
from services.hub_bridge.arrival import arrive
from services.hub_bridge.errors import NotAnsweringError, SessionEndedError
from services.hub_bridge.sessions import Sessions
from tests.support.samples import HUB, Story, stamp

SUBJECTS = Subjects()


@pytest.fixture
async def log() -> MemoryLog:
    return MemoryLog()


@pytest.fixture
async def sessions(log: MemoryLog) -> AsyncIterator[Sessions]:
    sessions = Sessions(log, SUBJECTS, stamp("hub-bridge"), HUB)
    await sessions.start()
    yield sessions
    await sessions.close()


async def tell(log: MemoryLog, *events: SessionEvent) -> None:
    """Appends as others do."""
    for event in events:
        scope = SUBJECTS.session(event.session)
        history = await log.history("SESSIONS", scope)
        after = history[-1].sequence if history else 0
        stamped = stamp("others")(event, after=after, cause=None)
        await log.append("SESSIONS", SUBJECTS.session_event(stamped), stamped, scope=scope, after=after)


def up_to_tunnel(story: Story) -> list[SessionEvent]:
    return [story.requested(), story.admitted(), story.created(), story.submitted(), story.listening(), story.tunnel()]


async def names(sessions: Sessions, story: Story) -> list[str]:
    return [type(event).__name__ async for event in sessions.story(story.session)]


async def test_the_live_session_of_a_server(log: MemoryLog, sessions: Sessions) -> None:
    first, second, named = Story(), Story(), Story(server_name="x")
    await tell(log, first.requested(), named.requested())
    assert sessions.live("ada", "") == first.session
    assert sessions.live("ada", "x") == named.session
    await tell(log, first.stop(), first.ended())
    assert sessions.live("ada", "") is None
    await tell(log, second.requested())
    assert sessions.live("ada", "") == second.session
    assert isinstance(sessions.state(first.session), Ended)
    assert isinstance(sessions.state(Story().session), NotStarted)


async def test_sessions_of_other_hubs_are_not_followed(log: MemoryLog) -> None:
    other = Sessions(log, SUBJECTS, stamp("hub-bridge"), HUB.__class__("other"))
    await other.start()
    story = Story()
    await tell(log, story.requested())
    assert other.live("ada", "") is None


async def test_readers_early_late_and_after_the_end_hear_the_same_story(log: MemoryLog, sessions: Sessions) -> None:
    story = Story()
    early = asyncio.create_task(names(sessions, story))
    await asyncio.sleep(0)
    await tell(log, *up_to_tunnel(story)[:4])
    late = asyncio.create_task(names(sessions, story))
    await tell(log, *up_to_tunnel(story)[4:], story.ready())
    told = await early
    assert told[0] == "StartRequested"
    assert told[-1] == "ServerReady"
    assert told == await late == await names(sessions, story)
    restarted = Sessions(log, SUBJECTS, stamp("hub-bridge"), HUB)
    await restarted.start()
    assert await names(restarted, story) == told


async def test_a_reader_that_leaves_disturbs_nobody(log: MemoryLog, sessions: Sessions) -> None:
    story = Story()
    await tell(log, story.requested())
    leaving, staying = (asyncio.create_task(names(sessions, story)) for _ in range(2))
    await asyncio.sleep(0)
    leaving.cancel()
    await tell(log, story.stop(), story.ended())
    assert (await staying)[-1] == "SessionEnded"


async def test_two_stops_are_one(log: MemoryLog, sessions: Sessions) -> None:
    story = Story()
    await tell(log, story.requested())
    assert sorted(await asyncio.gather(sessions.record(story.stop()), sessions.record(story.stop()))) == [False, True]


async def test_a_start_arrives_when_its_server_answers(log: MemoryLog, sessions: Sessions) -> None:
    story, asked = Story(), asyncio.Event()
    answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def answers(tunnel: TunnelReady) -> None:
        asked.set()
        await answer

    arriving = asyncio.create_task(arrive(sessions, story.session, answers))
    await tell(log, *up_to_tunnel(story))
    await asked.wait()
    assert isinstance(sessions.state(story.session), Reachable)
    answer.set_result(None)
    assert (await arriving).port == 7000
    assert isinstance(sessions.state(story.session), Ready)


async def test_a_tunnel_that_moves_while_the_server_is_asked_is_followed(log: MemoryLog, sessions: Sessions) -> None:
    story, asked = Story(), asyncio.Event()

    async def answers(tunnel: TunnelReady) -> None:
        if tunnel.generation == 1:
            asked.set()
            await asyncio.Event().wait()

    arriving = asyncio.create_task(arrive(sessions, story.session, answers))
    await tell(log, *up_to_tunnel(story))
    await asked.wait()
    await tell(log, story.tunnel(generation=2, port=7001))
    assert (await arriving).port == 7001


async def test_a_session_that_ends_meanwhile_says_why(log: MemoryLog, sessions: Sessions) -> None:
    story = Story()
    arriving = asyncio.create_task(arrive(sessions, story.session, _never))
    await tell(log, *up_to_tunnel(story), story.stop(), story.ended())
    with pytest.raises(SessionEndedError) as refusal:
        await arriving
    assert refusal.value.jupyterhub_message == "stopped by ada"


async def test_a_server_that_does_not_answer_is_told_so_and_not_said_ready(log: MemoryLog, sessions: Sessions) -> None:
    story = Story()
    await tell(log, *up_to_tunnel(story))

    async def answers(tunnel: TunnelReady) -> None:
        raise NotAnsweringError(30)

    with pytest.raises(NotAnsweringError):
        await arrive(sessions, story.session, answers)
    assert isinstance(sessions.state(story.session), Reachable)


async def test_one_that_is_ready_is_not_said_ready_again(log: MemoryLog, sessions: Sessions) -> None:
    story = Story()
    await tell(log, *up_to_tunnel(story), story.ready())

    async def answers(tunnel: TunnelReady) -> None:
        return

    await arrive(sessions, story.session, answers)
    assert (await names(sessions, story)).count("ServerReady") == 1


async def test_waiting_is_over_when_the_state_is_there(log: MemoryLog, sessions: Sessions) -> None:
    story = Story()
    waiting = asyncio.create_task(sessions.wait_for(story.session, lambda state: isinstance(state, Submitted)))
    await tell(log, *up_to_tunnel(story)[:4])
    assert isinstance(await waiting, Submitted)


async def _never(tunnel: TunnelReady) -> None:
    await asyncio.Event().wait()
