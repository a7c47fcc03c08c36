"""The reading commands on a real broker, as a person and as a program sees them."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest

from schemas.session import SessionEvent, StopRequested
from schemas.subjects import Subjects
from services._runtime.configuration import ConfigurationError
from services._runtime.connection import Broker
from services._runtime.errors import TransientError
from services._runtime.settings import Configuration
from services.operator_cli import read
from services.operator_cli.acts.consent import Consent
from services.operator_cli.acts.stop import ask_to_stop
from services.operator_cli.histories import LogHistories
from services.operator_cli.output import one_line
from services.operator_cli.story.history import NoSuchSessionError
from services.operator_cli.story.row import Wanted
from tests.services.operator_cli.conftest import signed_in
from tests.support.samples import NOW, Story, stamp

SUBJECTS = Subjects()
Capture = pytest.CaptureFixture[str]


async def tell(configuration: Configuration, story: Story, *, until: str = "ended") -> None:
    """Appends a story with the keys of those who may."""
    said: list[tuple[str, SessionEvent]] = [
        ("hub-bridge", story.requested()),
        ("accounts", story.admitted()),
        ("hpc-launcher", story.created()),
        ("hpc-launcher", story.submitted()),
        ("hub-bridge", story.stop()),
        ("hpc-launcher", story.ended()),
    ]
    names = ["requested", "admitted", "created", "submitted", "stopping", "ended"]
    for service, event in said[: names.index(until) + 1]:
        async with signed_in(configuration, service) as broker:
            await append(broker, event)


async def append(broker: Broker, event: SessionEvent) -> None:
    scope = SUBJECTS.session(event.session)
    before = await broker.log.history("SESSIONS", scope)
    after = before[-1].sequence if before else 0
    stamped = stamp()(event, after=after, cause=before[-1].message.id if before else None)
    await broker.log.append("SESSIONS", SUBJECTS.session_event(stamped), stamped, scope=scope, after=after)


async def test_sessions_are_listed_and_narrowed(guarded: Configuration, capsys: Capture) -> None:
    ada, ben = Story(user="ada"), Story(user="ben", server_name="lab")
    await tell(guarded, ada)
    await tell(guarded, ben, until="submitted")
    async with signed_in(guarded, "operator-cli") as broker:
        listed = {}
        for name, (user, system, live) in {
            "all": ("", "", False),
            "ada": ("ada", "", False),
            "live": ("", "", True),
            "here": ("", "demo-hpc", False),
            "there": ("", "elsewhere", False),
        }.items():
            wanted = Wanted(user=user, system=system, live=live)
            source = LogHistories(broker.log, SUBJECTS)
            assert await read.sessions(source, wanted, order="started", watch=False, as_json=True) == 0
            listed[name] = [row["session"] for row in json.loads(capsys.readouterr().out)]
        assert listed == {
            "all": [ada.session, ben.session],
            "ada": [ada.session],
            "live": [ben.session],
            "here": [ada.session, ben.session],
            "there": [],
        }
        await read.sessions(source, Wanted(), order="started", watch=False, as_json=False)
        printed = capsys.readouterr().out
        assert "2 sessions" in printed
        assert "stopped by ada" in printed
        with pytest.raises(ConfigurationError, match="not the name of a system; `farlab config check` lists them"):
            await read.sessions(source, Wanted(system="farlab.>"), order="started", watch=False, as_json=False)


async def test_a_timeline_is_the_same_for_people_and_programs(guarded: Configuration, capsys: Capture) -> None:
    story = Story(server_name="lab")
    await tell(guarded, story)
    async with signed_in(guarded, "operator-cli") as broker:
        assert await read.timeline(LogHistories(broker.log, SUBJECTS), story.session[-6:].upper(), as_json=True) == 0
        steps = json.loads(capsys.readouterr().out)
        assert [step["state"] for step in steps][-2:] == ["stopping", "ended"]
        assert [step["cause"] for step in steps] == [None, *[step["id"] for step in steps[:-1]]]
        await read.timeline(LogHistories(broker.log, SUBJECTS), "ada/lab", as_json=False)
        printed = capsys.readouterr().out
        for step in steps:
            assert step["type"] in printed
        with pytest.raises(NoSuchSessionError, match="there is no session 'nobody'"):
            await read.timeline(LogHistories(broker.log, SUBJECTS), "nobody", as_json=False)


async def test_events_are_filtered_by_what_was_asked(guarded: Configuration, capsys: Capture) -> None:
    ada, ben = Story(user="ada"), Story(user="ben")
    await tell(guarded, ada)
    await tell(guarded, ben, until="admitted")

    async def events(
        kind: str = "", session: str = "", since: datetime | None = None, grep: str = ""
    ) -> list[tuple[str, str]]:
        wanted = read.EventFilter(event_type=kind, session=session, since=since, grep=grep)
        async with signed_in(guarded, "operator-cli") as broker:
            await read.events(broker, guarded, wanted, "", follow=False, as_json=True)
        lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        return [(line["session"], line["type"]) for line in lines]

    assert len(await events()) == 8
    assert await events("start-admitted") == [(each.session, "start-admitted.v1") for each in (ada, ben)]
    assert await events("start-admitted.v1", session=ben.session.upper()) == [(ben.session, "start-admitted.v1")]
    assert len(await events(since=NOW)) == 8
    assert await events(since=NOW + timedelta(seconds=1)) == []
    assert await events("no-such-type") == []
    assert await events(grep="STOPPED BY") == [(ada.session, "session-ended.v1")]


async def test_a_stop_is_appended_once_with_who_and_why(guarded: Configuration, capsys: Capture) -> None:
    story = Story()
    await tell(guarded, story, until="created")
    async with signed_in(guarded, "operator-cli") as broker:
        for _ in range(2):
            assert await ask_to_stop(broker, guarded, [story.session], Wanted(), "cooling is out", Consent()) == 0
        printed = capsys.readouterr().out
        assert "its stop is requested" in printed
        assert "it is being stopped already" in printed
        history = await broker.log.history("SESSIONS", SUBJECTS.session(story.session))
        stops = [each.message for each in history if isinstance(each.message, StopRequested)]
        assert [(stop.reason, stop.by.split()[0], stop.source) for stop in stops] == [
            ("cooling is out", "operator", "farlab/operator-cli")
        ]


async def test_a_broker_without_our_log_is_said_at_once(bare: Configuration) -> None:
    async with signed_in(bare, "operator-cli") as broker:
        with pytest.raises(TransientError, match=r"has no event log for prefix 'farlab'.*is this the configuration"):
            await read.log_is_there(broker, bare)


def test_a_moment_may_be_a_time_with_or_without_zone() -> None:
    assert read.since("", NOW) is None
    assert read.since("10m", NOW) == NOW - timedelta(minutes=10)
    assert read.since("999999d", NOW) == datetime(1970, 1, 1, tzinfo=UTC)
    assert read.since("2026-11-23T11:00", NOW) == datetime(2026, 11, 23, 11, tzinfo=UTC)
    assert read.since("2026-11-23T11:00:00+02:00", NOW) == datetime(2026, 11, 23, 9, tzinfo=UTC)


@pytest.mark.parametrize("text", ["yesterday", "10", "10 minutes", "-5m", "m", "9999999d"])
def test_what_is_no_moment_is_refused_with_examples(text: str) -> None:
    with pytest.raises(ConfigurationError, match="not a time; write a duration such as 10m"):
        read.since(text, NOW)


def test_what_others_worded_stays_on_one_line_and_steers_no_terminal() -> None:
    assert one_line("first\n\n  second\r\nthird \x1b[31mred") == "first | second | third \ufffd[31mred"
