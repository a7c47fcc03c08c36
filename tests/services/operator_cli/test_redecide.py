"""Today's deciders against recorded sessions: none parts from what it said itself, and a changed one is found."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, get_args

import msgspec
import pytest

from benchmarks import instant_services
from schemas.lifecycle import Admitted, Rejected, Requested, SessionState, Stopping
from schemas.session import AnySessionEvent, SessionEvent, StartRejected, TunnelReady
from schemas.subjects import Subjects
from services._runtime.decider import Emit, Perform
from services._runtime.errors import PermanentError
from services._runtime.log import Recorded
from services._runtime.memory import MemoryLog
from services.accounts import decide as accounts
from services.cloud_launcher import decide as cloud_launcher
from services.hpc_launcher import decide as hpc_launcher
from services.operator_cli.acts.stop import request_stop
from services.operator_cli.replay import deciders
from services.operator_cli.story.history import moments
from services.operator_cli.story.redecide import Decider, differences
from services.tunneler import decide as tunneler
from tests.services.operator_cli.histories import recorded
from tests.support.samples import Story, stamp

SUBJECTS = Subjects()
Steps = Sequence[Emit | Perform[Any]]


async def lived(*, stopped_by_operator: bool = True) -> list[Recorded]:
    """A session through the real deciders of all services, with backends that take no time."""
    log, story = MemoryLog(), Story()
    request = msgspec.structs.replace(story.requested(), system=instant_services.SYSTEM)
    services = [instant_services.build(name, log, SUBJECTS) for name in ("accounts", "hpc-launcher", "tunneler")]
    scope = SUBJECTS.session(story.session)
    try:
        for service in services:
            await service.start()
        stamped = stamp("farlab/hub-bridge")(request, after=0, cause=None)
        await log.append("SESSIONS", SUBJECTS.session_event(stamped), stamped, scope=scope, after=0)
        await until(log, scope, TunnelReady)
        if stopped_by_operator:
            await request_stop(log, SUBJECTS, stamp("farlab/operator-cli"), story.session, "enough")
            await until(log, scope, instant_services.SessionEnded)
    finally:
        for service in services:
            await service.close()
    return await log.history("SESSIONS", scope)


async def until(log: MemoryLog, scope: str, kind: type[SessionEvent]) -> None:
    async with asyncio.timeout(10):
        while not any(isinstance(each.message, kind) for each in await log.history("SESSIONS", scope)):
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("stopped", [False, True])
async def test_today_says_what_was_recorded(stopped: bool) -> None:
    history = await lived(stopped_by_operator=stopped)
    assert len(history) == (8 if stopped else 6)
    assert differences(history, deciders()) == []


MODULES: dict[str, Any] = {
    "accounts": accounts,
    "hpc-launcher": hpc_launcher,
    "cloud-launcher": cloud_launcher,
    "tunneler": tunneler,
}


class Changed:
    """A decider with another answer in one kind of state."""

    def __init__(self, service: str, state: type, steps: Any) -> None:
        self.service = service
        real = deciders()[service]

        def decide(at: SessionState, event: AnySessionEvent | None) -> Steps:
            return steps(at) if isinstance(at, state) else real.decide(at, event)

        self.decider = Decider(decide, real.consumes, real.facts)


def nothing(_state: object) -> Steps:
    return []


def rejects(state: Any) -> Steps:
    request = state.request
    rejected = StartRejected(
        hub=request.hub, system=request.system, session=request.session, code="no", message="No.", remedy="None."
    )
    return [Emit(rejected)]


@pytest.mark.parametrize(
    ("changed", "event", "was", "now"),
    [
        (Changed("accounts", Requested, nothing), "start-requested", "start-admitted", "nothing"),
        (Changed("accounts", Requested, rejects), "start-requested", "start-admitted", "start-rejected code='no'"),
        (Changed("hpc-launcher", Admitted, nothing), "start-admitted", "job-created", "nothing"),
        (Changed("hpc-launcher", Stopping, nothing), "stop-requested", "session-ended", "nothing"),
        (Changed("tunneler", object, nothing), "server-listening", "tunnel-ready", "nothing"),
    ],
    ids=["forgets", "rejects", "makes no job", "never ends", "opens no tunnel"],
)
async def test_a_changed_decider_is_found_where_it_parts(changed: Changed, event: str, was: str, now: str) -> None:
    history = await lived()
    [first, *_] = differences(history, {changed.service: changed.decider})
    assert (first.service, first.event) == (changed.service, event)
    assert first.recorded.startswith(was)
    assert first.today.startswith(now)


def test_words_that_changed_are_a_difference_and_times_are_none() -> None:
    story = Story()
    rejected = StartRejected(
        hub="h", system="demo-hpc", session=story.session, code="full", message="Full.", remedy="Wait."
    )
    request, rejection = recorded(story.requested(), msgspec.structs.replace(rejected, hub=story.requested().hub))
    [step] = deciders()["accounts"].decide(Rejected(request.message, rejection.message), rejection.message)  # type: ignore[arg-type]
    assert isinstance(step, Emit)
    as_said, reworded = (
        msgspec.structs.replace(
            step.event, id=f"{number:032}", cause=rejection.message.id, source="farlab/accounts", **also
        )
        for number, also in enumerate([{}, {"reason": "Was full."}])
    )
    first = msgspec.structs.replace(rejection.message, source="farlab/accounts", cause=request.message.id)
    for end, parted in ((as_said, 0), (reworded, 1)):
        history = [request, Recorded(2, first), Recorded(3, end)]
        found = differences(history, {"accounts": deciders()["accounts"]})
        assert len([each for each in found if each.event == "start-rejected"]) == parted


def test_what_a_service_had_no_time_to_say_is_no_difference() -> None:
    story = Story()
    history = recorded(story.requested(), story.stop(), story.ended())
    assert [each for each in differences(history, deciders()) if each.event == "start-requested"] == []


def test_a_history_without_beginning_breaks_nothing() -> None:
    story = Story()
    assert differences(recorded(story.listening(), story.ended()), deciders()) == []


def refused_at(story: Story, **end: Any) -> list[Recorded]:
    """A start whose job was made, and whose session the launcher then ended."""
    over = msgspec.structs.replace(story.ended(), outcome="failed", reason="No.", **end)
    request, admitted, created, ended = recorded(story.requested(), story.admitted(), story.created(), over)
    launched = [msgspec.structs.replace(each.message, source="farlab/hpc-launcher") for each in (created, ended)]
    caused = [msgspec.structs.replace(each, cause=admitted.message.id) for each in launched]
    return [request, admitted, Recorded(3, caused[0]), Recorded(4, caused[1])]


def test_what_a_site_refused_is_given_and_what_the_launcher_decided_is_not() -> None:
    launcher = {"hpc-launcher": deciders()["hpc-launcher"]}
    assert differences(refused_at(Story(), refusal="site-refused"), launcher) == []
    [found] = differences(refused_at(Story()), launcher)
    assert found.recorded.startswith("session-ended outcome='failed'")
    assert found.today == "perform SubmitJob"


@pytest.mark.parametrize("service", deciders())
def test_a_service_that_gives_up_says_what_was_refused(service: str) -> None:
    module = MODULES[service]
    story, code = Story(), "site-refused"
    told = [story.requested(), story.admitted(), story.created(), story.submitted(), story.listening()]
    states = [moment.after for moment in moments(recorded(*told, story.tunnel(), story.ready(), story.stop()))]
    said = [step.event for state in states for step in module.give_up(state, PermanentError(code, "No.", "None."))]
    assert said
    assert {getattr(event, "refusal", None) or getattr(event, "code", None) for event in said} == {code}


@pytest.mark.parametrize("service", deciders())
def test_every_command_has_its_facts(service: str) -> None:
    assert set(deciders()[service].facts) == set(get_args(MODULES[service].Command))
