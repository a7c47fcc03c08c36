"""What was published stays, byte for byte, and decodes for ever."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from schemas import publication
from schemas.base import Message, message_type
from schemas.wire import CURRENT, READABLE, decode, encode

SAMPLES = sorted(publication.FOLDER.glob("*.v*.json"))
SAMPLES = [file for file in SAMPLES if not file.name.endswith(".schema.json")]


def test_every_message_is_published_and_nothing_published_has_changed() -> None:
    assert publication.problems(publication.FOLDER) == []


def test_a_changed_a_lost_and_an_unpublished_file_are_named(tmp_path: Path) -> None:
    publication.publish(tmp_path)
    (tmp_path / "job-created.v1.json").write_text("{}")
    (tmp_path / "job-submitted.v1.json").unlink()
    manifest = (tmp_path / publication.MANIFEST).read_text().splitlines()
    (tmp_path / publication.MANIFEST).write_text(
        "\n".join(line for line in manifest if "tunnel-lost.v1.json" not in line)
    )
    found = "\n".join(publication.problems(tmp_path))
    assert "job-created.v1.json was published and has changed" in found
    assert "job-submitted.v1.json was published and is gone" in found
    assert "tunnel-lost.v1.json is not published" in found


def test_publishing_again_writes_nothing(tmp_path: Path) -> None:
    assert publication.publish(tmp_path)
    assert publication.publish(tmp_path) == []


@pytest.mark.parametrize("file", SAMPLES, ids=lambda file: file.stem)
def test_a_published_body_decodes_and_is_what_its_schema_says(file: Path) -> None:
    body = file.read_bytes()
    message = decode(body)
    schema = json.loads(file.with_suffix(".schema.json").read_text())
    jsonschema.Draft202012Validator(schema).validate(json.loads(body))
    if message_type(message) == file.stem:
        today, then = json.loads(encode(message)), json.loads(body)
        assert_says_the_same(today, then)


def assert_says_the_same(today: Any, then: Any) -> None:
    """What was said then is said today, however deep, and what came since says nothing."""
    match today, then:
        case dict(), dict():
            for name in then:
                assert_says_the_same(today.get(name), then[name])
            assert all(today[name] in (None, "", [], {}) for name in set(today) - set(then)), today
        case list(), list():
            assert len(today) == len(then)
            for each_today, each_then in zip(today, then, strict=True):
                assert_says_the_same(each_today, each_then)
        case _:
            assert today == then


def test_today_reads_all_that_was_ever_promised() -> None:
    assert publication.breaking_changes(publication.FOLDER) == []
    published = {file.stem for file in SAMPLES}
    assert published == {message_type(message) for message in READABLE}, "a version is published and has no reader"


def test_a_promise_that_is_broken_is_named_with_its_file(tmp_path: Path) -> None:
    publication.publish(tmp_path)
    file = tmp_path / "job-created.v1.schema.json"
    promised = json.loads(file.read_text())
    del promised["properties"]["job"]["maxLength"]
    file.write_text(json.dumps(promised))
    [found] = publication.breaking_changes(tmp_path)
    assert found == "job-created.v1.schema.json: $.job: maxLength lowered from None to 1024; make a new version"


def test_a_file_that_the_manifest_does_not_name_is_never_overwritten(tmp_path: Path) -> None:
    file = tmp_path / "job-created.v1.json"
    file.write_text("{}")
    assert file.name not in publication.publish(tmp_path)
    assert file.read_text() == "{}"
    assert f"{file.name} lies among the published files and is not in MANIFEST.sha256" in publication.problems(tmp_path)


def test_a_second_digest_for_a_file_does_not_excuse_its_change(tmp_path: Path) -> None:
    publication.publish(tmp_path)
    file = tmp_path / "job-created.v1.json"
    file.write_text("{}")
    with (tmp_path / publication.MANIFEST).open("a") as manifest:
        manifest.write(f"{sha256(b'{}').hexdigest()}  {file.name}\n")
    found = "\n".join(publication.problems(tmp_path))
    assert f"{file.name} was published and has changed" in found
    assert f"{file.name} is in MANIFEST.sha256 more than once" in found


def test_a_manifest_without_a_last_newline_is_continued_on_a_new_line(tmp_path: Path) -> None:
    publication.publish(tmp_path)
    file = tmp_path / publication.MANIFEST
    *kept, last = file.read_text().splitlines()
    file.write_text("\n".join(kept))
    (tmp_path / last.split()[1]).unlink()
    assert publication.publish(tmp_path) == [last.split()[1]]
    assert publication.problems(tmp_path) == []


def test_the_command_publishes_then_checks_and_says_which_file_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert publication.main(["--check"], folder=tmp_path) == 1
    assert "job-created.v1.json is not published; run: python -m schemas.publication" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    assert publication.main([], folder=tmp_path) == 0
    assert "published job-created.v1.json" in capsys.readouterr().out
    assert publication.main(["--check"], folder=tmp_path) == 0
    changed = (tmp_path / "job-created.v1.json").read_bytes() + b"\n"
    (tmp_path / "job-created.v1.json").write_bytes(changed)
    for arguments in ([], ["--check"]):
        assert publication.main(arguments, folder=tmp_path) == 1
        assert "job-created.v1.json was published and has changed" in capsys.readouterr().err
    assert (tmp_path / "job-created.v1.json").read_bytes() == changed


@pytest.mark.parametrize("message", CURRENT, ids=message_type)
def test_a_published_schema_asks_for_what_is_always_on_the_wire(message: type[Message]) -> None:
    published = json.loads((publication.FOLDER / f"{message_type(message)}.schema.json").read_text())
    assert {"type", "id", "at", "source"} <= set(published["required"])
    jsonschema.Draft202012Validator.check_schema(published)
