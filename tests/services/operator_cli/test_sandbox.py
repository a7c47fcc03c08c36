"""Sessions replayed into a second installation: mapped, bare of secrets, refused where it is in use, and played."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest

from benchmarks import instant_services
from schemas.base import HubName, SystemName, UserName
from schemas.session import HpcPlace, SessionEvent, StartRequested
from schemas.subjects import Subjects
from services._runtime import topology
from services._runtime.configuration import ConfigurationError
from services._runtime.connection import Broker, connect
from services._runtime.log import Recorded
from services._runtime.settings import Configuration, load
from services.operator_cli.acts.consent import Consent
from services.operator_cli.histories import Histories, LogHistories
from services.operator_cli.sandbox.into import Into, replay_into
from services.operator_cli.sandbox.mapping import REPLAY_HUB, Mapping, first_parting, from_outside, mapped
from services.operator_cli.sandbox.target import Target
from services.operator_cli.story.history import History, moments
from tests.services.operator_cli.conftest import guarded_nats, signed_in
from tests.services.operator_cli.histories import recorded
from tests.support.samples import HUB, NOW, SYSTEM, Story, new_session, stamp

SUBJECTS = Subjects()
SANDBOX = "\n[systems]\n"
YES = Consent(yes=True)
Capture = pytest.CaptureFixture[str]


class Given:
    """Histories that are at hand."""

    def __init__(self, *histories: History) -> None:
        self._histories = histories

    async def all(self, *, system: str = "*") -> Sequence[History]:
        """See Histories."""
        return self._histories


def of(history: Sequence[Recorded], *sources: str) -> list[Recorded]:
    """The history, each event said by one of these services."""
    return [
        Recorded(each.sequence, msgspec.structs.replace(each.message, source=f"farlab/{source}"))
        for each, source in zip(history, sources, strict=True)
    ]


def lived() -> list[Recorded]:
    """A session that a user had and stopped, on a system that only the source knows."""
    story = Story()
    said = [story.requested(), story.admitted(), story.created(), story.submitted(), story.listening()]
    said += [story.tunnel(), story.ready(), story.stop(), story.ended()]  # type: ignore[list-item]
    sources = ["hub-bridge", "accounts", "hpc-launcher", "hpc-launcher", "hpc-launcher", "tunneler"]
    return of(recorded(*said), *sources, "hub-bridge", "hub-bridge", "hpc-launcher")


def test_an_event_is_mapped_and_bare() -> None:
    story, here = Story(), new_session()
    secret = msgspec.structs.replace(story.requested(), environment={"TOKEN": "canary"}, sign_in=new_session())
    place = HpcPlace(account="a", project="p", partition="devel")
    to = Mapping(system=SystemName("other"), user=UserName("eve"), place=place)
    made = mapped(stamp()(secret, after=0, cause=None), to, here, timedelta(hours=1))
    assert isinstance(made, StartRequested)
    assert (made.hub, made.system, made.session, made.user, made.place) == (REPLAY_HUB, "other", here, "eve", place)
    assert made.deadline - secret.deadline == timedelta(hours=1)
    assert (made.environment, made.sign_in, made.id, made.cause) == ({}, None, "", None)
    assert mapped(secret, Mapping(), here, timedelta()).user == "ada"  # type: ignore[attr-defined]


def test_what_services_say_is_left_to_the_sandbox() -> None:
    said = [type(each.event).__name__ for each in moments(lived()) if from_outside(each)]
    assert said == ["StartRequested", "ServerReady", "StopRequested"]


def test_two_ways_part_where_they_first_differ() -> None:
    assert first_parting(["a", "b"], ["a", "b"]) == ""
    assert first_parting(["a", "b"], ["a", "c"]) == "after a: recorded b, here c"
    assert first_parting(["a"], ["a", "c"]) == "after a: recorded nothing, here c"


@asynccontextmanager
async def sandbox(folder: Path, *, marked: bool = True, emulated: bool = True) -> AsyncIterator[Configuration]:
    """A second installation on a broker of its own, with permissions as `farlab up` gives them, and no services."""
    folder.mkdir()
    async with guarded_nats(folder, sandbox=marked) as configuration:
        operator = await connect(configuration, "operator-cli")
        await topology.apply(operator.log.js, configuration.subjects, configuration.shared.retention)
        await operator.close()
        if not emulated:
            file = folder / "systems" / "demo-hpc.toml"
            file.write_text(file.read_text().partition("[emulated]")[0])
        yield load(folder / "farlab.toml")


@asynccontextmanager
async def answering(configuration: Configuration) -> AsyncIterator[None]:
    """The services of an installation, each under its own key, with sites that take no time."""
    names = ("accounts", "hpc-launcher", "tunneler")
    brokers = [await connect(configuration, name) for name in names]
    services = [
        instant_services.build(name, broker.log, SUBJECTS, SYSTEM) for name, broker in zip(names, brokers, strict=True)
    ]
    try:
        for service in services:
            await service.start()
        yield
    finally:
        for service in services:
            await service.close()
        for broker in brokers:
            await broker.close()


async def histories(configuration: Configuration) -> Sequence[History]:
    async with signed_in(configuration, "operator-cli") as operator:
        return await LogHistories(operator.log, SUBJECTS).all()


def into(configuration: Configuration, **more: object) -> Into:
    return Into(into=str(configuration.file), patience_seconds=20.0, **more)  # type: ignore[arg-type]


def names(history: History) -> list[str]:
    return [type(each.message).__name__ for each in history]


async def test_services_of_a_sandbox_live_a_recorded_session_again(tmp_path: Path, capsys: Capture) -> None:
    history = lived()
    async with sandbox(tmp_path / "b") as there, answering(there):
        assert await replay_into(Given(history), [], into(there, speed=1000.0), YES, as_json=True) == 0
        [said] = json.loads(capsys.readouterr().out.splitlines()[-1])["sessions"]
        assert (said["recorded"], said["outcome"], said["parted"], said["events"]) == ("stopped", "stopped", "", 3)
        [again] = await histories(there)
        assert names(again) == names(history)
        assert {each.message.session for each in again} == {said["here"]} != {history[0].message.session}  # type: ignore[attr-defined]
        assert {each.message.hub for each in again} == {REPLAY_HUB}  # type: ignore[attr-defined]
        assert [each.message.source.partition("/")[0] for each in again].count("bench") == 6
        async with signed_in(there, "operator-cli") as operator:
            assert await operator.vault.keys() == []


async def test_where_a_sandbox_decides_otherwise_it_is_told(tmp_path: Path, capsys: Capture) -> None:
    story = Story()
    failed = msgspec.structs.replace(story.ended(), outcome="failed")
    history = of(recorded(story.requested(), story.admitted(), failed), "hub-bridge", "accounts", "hpc-launcher")
    async with sandbox(tmp_path / "b") as there, answering(there):
        asked = msgspec.structs.replace(into(there), patience_seconds=0.5)
        assert await replay_into(Given(history), [], asked, YES, as_json=False) == 1
        told = capsys.readouterr().out
        assert "recorded ended as failed, here created" in " ".join(told.split())
        [again] = await histories(there)
        assert names(again)[-2:] == ["StopRequested", "SessionEnded"], "nothing goes on in the sandbox"


@pytest.mark.parametrize("speed", [0.0, 100.0])
async def test_a_log_is_put_there_as_it_was(tmp_path: Path, capsys: Capture, speed: float) -> None:
    history, other = lived(), recorded(Story().requested())
    async with sandbox(tmp_path / "b") as there:
        asked = into(there, as_recorded=True, speed=speed, system="elsewhere")
        assert await replay_into(Given(history, other), [], asked, YES, as_json=False) == 0
        capsys.readouterr()
        again = max(await histories(there), key=len)
        assert names(again) == names(history)
        assert [each.message.source for each in again] == [each.message.source for each in history]
        ids = {was.message.id: now.message.id for was, now in zip(history, again, strict=True)}
        assert [ids[each.message.cause] for each in history[1:] if each.message.cause] == [
            each.message.cause for each in again[1:]
        ]
        assert not set(ids) & set(ids.values())
        assert ([each.message.at for each in again] == [each.message.at for each in history]) == (speed == 0)


async def test_a_dry_run_shows_and_writes_nothing(tmp_path: Path, capsys: Capture) -> None:
    async with sandbox(tmp_path / "b") as there:
        dry = Consent(dry_run=True)
        history = lived()
        assert await replay_into(Given(history), [], into(there, as_recorded=True), dry, as_json=False) == 0
        assert f"{history[0].message.session} -> " in (told := capsys.readouterr().out)  # type: ignore[attr-defined]
        assert "9 of 9 events, ada on demo-hpc" in told
        assert "Nothing was done" in told
        assert await histories(there) == []


async def append(broker: Broker, event: SessionEvent) -> None:
    scope = SUBJECTS.session(event.session)
    stamped = stamp()(event, after=0, cause=None)
    await broker.log.append("SESSIONS", SUBJECTS.session_event(stamped), stamped, scope=scope, after=0)


async def refused(source: Histories, asked: Into) -> str:
    with pytest.raises(ConfigurationError) as error:
        await replay_into(source, [], asked, YES, as_json=True)
    return str(error.value)


async def test_an_installation_in_use_is_refused_unless_it_is_named(tmp_path: Path) -> None:
    async with sandbox(tmp_path / "b") as there:
        async with signed_in(there, "hub-bridge") as hub:
            await append(hub, Story().requested())
        asked = into(there, as_recorded=True)
        assert f"--beside {HUB}" in await refused(Given(lived()), asked)
        assert (
            await replay_into(Given(lived()), [], msgspec.structs.replace(asked, beside=[HUB]), YES, as_json=True) == 0
        )
        [own, *_] = await histories(there)
        assert "the log it comes from" in await refused(Given(own), msgspec.structs.replace(asked, beside=[HUB]))


async def test_no_real_site_and_no_silence_is_replayed_into(tmp_path: Path) -> None:
    async with sandbox(tmp_path / "real", emulated=False) as there:
        assert "demo-hpc of the target is a real site" in await refused(Given(lived()), into(there))
        assert "no system 'other'" in await refused(Given(lived()), into(there, system="other"))
    async with sandbox(tmp_path / "b") as there:
        assert "nobody would answer" in await refused(Given(lived()), into(there))
        async with answering(there):
            assert "would answer what is put there" in await refused(Given(lived()), into(there, as_recorded=True))


async def test_only_a_sandbox_takes_replayed_sessions(tmp_path: Path) -> None:
    async with sandbox(tmp_path / "b", marked=False) as there:
        assert "write `sandbox = true`" in await refused(Given(lived()), into(there))
        async with signed_in(there, "operator-cli") as operator:
            target = Target(there, operator)
            made = mapped(Story().requested(), Mapping(), new_session(), timedelta())
            stamped = target.stamp("hub-bridge")(made, after=0, cause=None)
            with pytest.raises(Exception, match="may operator-cli speak for the hub replay"):
                await target.append(stamped, 0)


@pytest.mark.parametrize("asked", ["nats://user:hidden@host:4222", "https://host"])
async def test_an_address_that_is_none_is_one_line_without_secrets(asked: str) -> None:
    said = await refused(Given(lived()), Into(into=asked))
    assert "write nats://HOST:PORT" in said
    assert "hidden" not in said


async def test_histories_without_a_beginning_are_no_session_to_replay(tmp_path: Path) -> None:
    assert "no session with its beginning" in await refused(Given(recorded(Story().ready())), Into(into="nats://h:1"))
    assert HubName("replay") == REPLAY_HUB
    assert NOW.tzinfo is not None
