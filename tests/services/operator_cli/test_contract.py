"""The contract as an operator looks at it, and what an upgrade is said to change."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path

import pytest
from typer.testing import CliRunner

from schemas.base import message_type
from schemas.wire import CURRENT
from services._runtime.configuration import ConfigurationError
from services.operator_cli.__main__ import app
from services.operator_cli.contract.differences import breaking, changes, installed, schemas_at
from services.operator_cli.contract.page import page


def farlab(*arguments: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, ["schemas", *arguments])
    return done.exit_code, done.stdout, done.stderr


def test_every_message_is_listed_and_shown() -> None:
    code, out, _ = farlab("list", "--json")
    assert (code, [each["type"] for each in json.loads(out)]) == (0, [message_type(each) for each in CURRENT])
    code, out, _ = farlab("show", "job-created")
    assert json.loads(out)["$id"] == "urn:farlab:schema:job-created.v1"
    code, out, _ = farlab("show", "job-created.v1", "--sample")
    assert (code, json.loads(out)["job"]) == (0, "4f1c2d")
    code, _, err = farlab("show", "job-create")
    assert (code, "did you mean 'job-created'?" in err) == (2, True)


def test_what_was_published_is_read_by_this_build() -> None:
    code, out, err = farlab("check")
    assert (code, "this build reads all of them" in out) == (0, True), err


def test_an_export_differs_in_nothing_from_what_it_is_of(tmp_path: Path) -> None:
    code, _, _ = farlab("export", "--to", str(tmp_path / "s"))
    assert code == 0
    assert changes(schemas_at(str(tmp_path / "s")), installed()) == []
    assert farlab("diff", str(tmp_path / "s"))[0] == 0
    with pytest.raises(ConfigurationError, match="no folder with schemas"):
        schemas_at(str(tmp_path / "nowhere"))
    (tmp_path / "s" / "job-created.v1.schema.json").write_text("{")
    with pytest.raises(ConfigurationError, match=r"job-created.v1.schema.json: not a schema"):
        schemas_at(str(tmp_path / "s"))


def test_what_a_new_build_cannot_read_is_breaking_and_a_new_field_is_not(tmp_path: Path) -> None:
    old = dict(installed())
    grown = json.loads(json.dumps(old["job-created.v1"]))
    grown["properties"]["queue"] = {"type": "string", "default": ""}
    found = changes(old, old | {"job-created.v1": grown, "job-moved.v1": {}})
    assert [(each.type, each.kind, each.new_readers) for each in found] == [
        ("job-created.v1", "changed", []),
        ("job-moved.v1", "added", []),
    ]
    assert not breaking(found)
    narrow = json.loads(json.dumps(old["job-created.v1"]))
    narrow["properties"]["job"]["maxLength"] = 3
    assert breaking(changes(old, old | {"job-created.v1": narrow}))
    farlab("export", "--to", str(tmp_path / "new"))
    (tmp_path / "new" / "job-created.v1.schema.json").write_text(json.dumps(narrow))
    code, out, _ = farlab("diff", "installed", str(tmp_path / "new"), "--json")
    assert (code, json.loads(out)[0]["type"]) == (1, "job-created.v1")


def test_the_page_has_every_message_and_every_link_leads_somewhere() -> None:
    class Anchors(HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.ids: set[str] = set()
            self.links: set[str] = set()

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            named = dict(attrs)
            self.ids |= {str(named["id"])} if "id" in named else set()
            self.links |= {str(named["href"]).removeprefix("#")} if "href" in named else set()

    anchors = Anchors()
    anchors.feed(page())
    assert anchors.links == {message_type(each) for each in CURRENT}
    assert anchors.links <= anchors.ids
