"""What was published stays, byte for byte, and decodes for ever."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import msgspec
import pytest

from schemas import asyncapi, publication
from schemas.base import message_type
from schemas.compatibility import breaks
from schemas.wire import CURRENT, decode, encode

SAMPLES = sorted(publication.FOLDER.glob("*.v*.json"))
SAMPLES = [file for file in SAMPLES if not file.name.endswith(".schema.json")]
TYPES = {message_type(message): message for message in CURRENT}


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
        assert json.loads(encode(message)) == json.loads(body)


@pytest.mark.parametrize("file", SAMPLES, ids=lambda file: file.stem)
def test_todays_schema_reads_all_that_the_published_one_promised(file: Path) -> None:
    if file.stem in TYPES:
        published = json.loads(file.with_suffix(".schema.json").read_text())
        assert breaks(published, publication.schema_of(TYPES[file.stem])) == []


BASE = {
    "type": "object",
    "properties": {"a": {"type": "string", "maxLength": 9}, "b": {"anyOf": [{"type": "integer"}, {"type": "null"}]}},
    "required": ["a"],
}


def changed(**properties: object) -> dict[str, object]:
    return BASE | {"properties": {**BASE["properties"], **properties}}  # type: ignore[dict-item]


@pytest.mark.parametrize(
    "current",
    [
        BASE,
        changed(c={"type": "string"}),
        changed(a={"type": "string", "maxLength": 10}),
        changed(a={"type": "string"}),
        changed(a={"type": ["string", "integer"]}),
        changed(b={"anyOf": [{"type": "integer"}, {"type": "null"}, {"type": "string"}]}),
        BASE | {"required": []},
    ],
)
def test_additive_changes_are_compatible(current: dict[str, object]) -> None:
    assert breaks(BASE, current) == []


@pytest.mark.parametrize(
    ("current", "said"),
    [
        (BASE | {"properties": {"a": BASE["properties"]["a"]}}, "$.b: removed"),  # type: ignore[index]
        (BASE | {"required": ["a", "b"]}, "$.b: newly required"),
        (changed(a={"type": "integer"}), "$.a: type narrowed"),
        (changed(a={"type": "string", "maxLength": 8}), "$.a: maxLength lowered"),
        (changed(a={"type": "string", "maxLength": 9, "minLength": 1}), "$.a: minLength raised"),
        (changed(a={"type": "string", "maxLength": 9, "pattern": "^x"}), "$.a: pattern changed"),
        (changed(a={"type": "string", "maxLength": 9, "enum": ["x"]}), "$.a: value 'anything' is no longer read"),
        (changed(b={"type": "integer"}), "$.b: type narrowed"),
    ],
)
def test_breaking_changes_are_named(current: dict[str, object], said: str) -> None:
    assert any(each.startswith(said) for each in breaks(BASE, current))


def test_the_asyncapi_document_names_every_message_and_every_reference_leads_somewhere() -> None:
    document = asyncapi.document()
    assert document["asyncapi"] == "3.0.0"
    assert set(document["components"]["messages"]) == set(TYPES)
    for operation in document["operations"].values():
        assert operation["channel"]["$ref"].rpartition("/")[2] in document["channels"]
    for channel in document["channels"].values():
        assert all(name in TYPES for name in channel["messages"])
        assert all("{" + name + "}" in channel["address"] for name in channel["parameters"])
    msgspec.json.encode(document)


def test_the_page_of_the_document_is_what_the_schemas_say() -> None:
    page = (publication.FOLDER.parents[1] / "docs" / "reference" / "asyncapi.json").read_bytes()
    assert json.loads(page) == json.loads(msgspec.json.encode(asyncapi.document())), (
        "stale: python -m schemas.asyncapi > docs/reference/asyncapi.json"
    )
