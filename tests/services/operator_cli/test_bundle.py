"""A bundle tells the same story elsewhere, says nothing of people, and is refused when it is not whole."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from schemas.session import LogTail, SessionEvent
from services._runtime.configuration import ConfigurationError
from services._runtime.log import Recorded
from services.operator_cli import bundle, replay
from services.operator_cli.histories import BundleHistories
from services.operator_cli.story.phases import phases
from services.operator_cli.story.timeline import timeline
from tests.services.operator_cli.histories import recorded
from tests.support.samples import NOW, Story

STORY = Story(user="ada.lovelace", server_name="engine")
SECRETIVE = msgspec.structs.replace(
    STORY.ended(), reason="stopped by ada.lovelace", log_tail=LogTail(stderr="token=canary")
)
HISTORY = recorded(
    STORY.requested(), STORY.admitted(), STORY.created("https://uc.site/jobs/1"), STORY.stop(), SECRETIVE
)


def made(*histories: list[Recorded]) -> bytes:
    return bundle.exported(histories, made_at=NOW, made_by="farlab 0.1.0")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "story.farlab.jsonl"
    bundle.write(file, made(HISTORY))
    return file


def test_a_bundle_has_the_same_story_and_none_of_its_people(file: Path) -> None:
    read = bundle.read(file)
    [history] = read.histories
    assert phases(history) == phases(HISTORY)
    there, here = timeline(history), timeline(HISTORY)
    assert [(each.type, each.id, each.cause, each.state) for each in there] == [
        (each.type, each.id, each.cause, each.state) for each in here
    ]
    text = file.read_text()
    for personal in ("lovelace", "engine", "ztrain", "uc.site", "canary"):  # pseudonyms are hexadecimal
        assert personal not in text
    assert file.stat().st_mode & 0o077 == 0


def test_pseudonyms_of_two_bundles_cannot_be_joined() -> None:
    assert made(HISTORY) != made(HISTORY)


@pytest.mark.parametrize("kept", [0.2, 0.5, 0.9, 0.999])
def test_a_bundle_that_was_cut_off_is_refused(file: Path, kept: float) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(ConfigurationError, match=r"its end is missing|not a bundle"):
        bundle.read(file)


def test_a_bundle_without_its_last_line_is_refused(file: Path) -> None:
    file.write_bytes(b"\n".join(file.read_bytes().splitlines()[:-1]) + b"\n")
    with pytest.raises(ConfigurationError, match="its end is missing"):
        bundle.read(file)


def test_a_bundle_that_was_changed_is_refused(file: Path) -> None:
    file.write_bytes(file.read_bytes().replace(b"job-created", b"job-CREATED"))
    with pytest.raises(ConfigurationError, match="changed after it was written"):
        bundle.read(file)


@pytest.mark.parametrize("content", [b"", b"\n", b"[]", b"hello\n", b'{"line":"event"}\n', b"\xff\xfe\n"])
def test_what_is_no_bundle_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(ConfigurationError, match="not a bundle; name a file that `farlab export` wrote"):
        bundle.read(tmp_path / "x")
    with pytest.raises(ConfigurationError, match="No such file"):
        bundle.read(tmp_path / "missing")


def test_a_bundle_of_a_newer_format_is_refused_with_what_helps(file: Path) -> None:
    file.write_bytes(file.read_bytes().replace(b'"format":1', b'"format":2'))
    with pytest.raises(ConfigurationError, match="a bundle of format 2, and this build reads up to 1; take a newer"):
        bundle.read(file)


def test_an_event_of_a_newer_type_is_left_out_and_counted(file: Path) -> None:
    lines = file.read_bytes().splitlines()
    event = json.loads(lines[2])
    event["body"]["type"] = "start-admitted.v9"
    lines[2] = json.dumps(event).encode()
    body = b"\n".join(lines[:-1]) + b"\n"
    end = {"line": "end", "sha256": bundle.sha256(body).hexdigest()}
    file.write_bytes(body + json.dumps(end).encode() + b"\n")
    read = bundle.read(file)
    assert read.unreadable == 1
    assert [len(history) for history in read.histories] == [len(HISTORY) - 1]


async def test_an_imported_bundle_is_found_by_its_name(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert replay.take_in(file, tmp_path / "imported") == 0
    assert f"farlab timeline {STORY.session} --bundle story" in capsys.readouterr().out
    source = BundleHistories(bundle.read(tmp_path / "imported" / "story.farlab.jsonl"))
    assert len(await source.all()) == 1
    assert await source.all(system="elsewhere") == []


async def test_stepping_through_shows_each_state_and_stops_where_told(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = BundleHistories(bundle.read(file))
    part = STORY.session[-8:]
    assert await replay.step_through(source, part, to="job-created", speed=0, with_state=True, as_json=True) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["state"] for line in lines] == ["requested", "admitted", "created"]
    assert set(lines[-1]["fields"]) == {"request", "admission", "job"}
    with pytest.raises(ConfigurationError, match="--to nowhere: the session has no such event; it has start-requested"):
        await replay.step_through(source, part, to="nowhere", speed=0, with_state=False, as_json=False)


def test_events_of_all_kinds_survive(tmp_path: Path) -> None:
    events: list[SessionEvent] = [STORY.requested(), STORY.admitted(), STORY.created(), STORY.submitted()]
    events += [STORY.listening(), STORY.tunnel(), STORY.ready(), STORY.stop(), STORY.ended()]
    bundle.write(tmp_path / "all", made(recorded(*events)))
    [history] = bundle.read(tmp_path / "all").histories
    assert [type(each.message) for each in history] == [type(each) for each in events]
