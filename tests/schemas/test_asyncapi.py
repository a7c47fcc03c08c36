"""The AsyncAPI document: whole, valid in its structure, and true to the broker's permissions and the deciders."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from typing import Any

import jsonschema
import msgspec
import pytest

from schemas import asyncapi, publication
from schemas.base import event_name, message_type
from schemas.wire import CURRENT
from services.accounts import decide as accounts
from services.cloud_launcher import decide as cloud_launcher
from services.hpc_launcher import decide as launcher
from services.operator_cli import nats_config
from services.tunneler import decide as tunneler

DOCUMENT: dict[str, Any] = json.loads(msgspec.json.encode(asyncapi.document()))
PAGE = publication.FOLDER.parents[1] / "docs" / "reference" / "asyncapi.json"
NAMES = {event_name(message) for message in CURRENT}
FIELDS = {
    "": ({"asyncapi", "info", "channels", "operations", "components"}, {"id", "servers", "defaultContentType"}),
    "channel": ({"address", "messages"}, {"parameters", "title", "summary", "description", "servers", "bindings"}),
    "operation": ({"action", "channel"}, {"title", "summary", "description", "messages", "bindings", "reply"}),
    "message": (
        {"name", "payload", "contentType", "examples", "headers"},
        {"correlationId", "title", "summary", "description", "tags", "bindings"},
    ),
}
"""Fields that must and may stand in each object, after the AsyncAPI specification 3.0.0, and what we ask beyond it."""


def references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for value in node.values():
            yield from references(value)
    elif isinstance(node, list):
        for value in node:
            yield from references(value)


def follow(reference: str) -> Any:
    assert reference.startswith("#/"), reference
    node = DOCUMENT
    for token in reference[2:].split("/"):
        node = node[token]
    return node


def has_only_fields_of(kind: str, node: dict[str, Any]) -> bool:
    must, may = FIELDS[kind]
    return must <= node.keys() <= must | may


def test_every_object_has_the_fields_of_the_specification() -> None:
    assert DOCUMENT["asyncapi"] == "3.0.0"
    assert {"title", "version"} <= DOCUMENT["info"].keys()
    assert has_only_fields_of("", DOCUMENT)
    assert all(has_only_fields_of("channel", each) for each in DOCUMENT["channels"].values())
    assert all(has_only_fields_of("operation", each) for each in DOCUMENT["operations"].values())
    assert all(has_only_fields_of("message", each) for each in DOCUMENT["components"]["messages"].values())
    keys = [*DOCUMENT["components"]["messages"], *DOCUMENT["components"]["schemas"]]
    assert all(re.fullmatch(r"[\w.-]+", key, re.ASCII) for key in keys)


def test_every_reference_leads_somewhere() -> None:
    found = set(references(DOCUMENT))
    assert all(follow(each) for each in found)
    assert {f"#/components/schemas/{name}" for name in DOCUMENT["components"]["schemas"]} <= found


def test_every_message_has_one_channel_whose_address_is_its_subject() -> None:
    assert set(DOCUMENT["components"]["messages"]) == {message_type(message) for message in CURRENT}
    assert set(DOCUMENT["channels"]) == NAMES
    for name, channel in DOCUMENT["channels"].items():
        assert set(re.findall(r"{(\w+)}", channel["address"])) == set(channel["parameters"])
        assert channel["address"].startswith("farlab.v1.")
        assert channel["address"].endswith(f".{name}")
        assert [follow(each["$ref"])["name"] for each in channel["messages"].values()] == list(channel["messages"])


@pytest.mark.parametrize("name", DOCUMENT["components"]["messages"])
def test_examples_are_what_their_schemas_say(name: str) -> None:
    message = DOCUMENT["components"]["messages"][name]
    document = {"components": DOCUMENT["components"]}
    for example in message["examples"]:
        for part in ("headers", "payload"):
            jsonschema.Draft202012Validator(document | message[part]).validate(example[part])
        for required in ("id", "at", "source", "type"):
            lacking = {key: value for key, value in example["payload"].items() if key != required}
            assert not jsonschema.Draft202012Validator(document | message["payload"]).is_valid(lacking)


def test_no_schema_has_openapis_discriminator_and_fields_of_that_name_would_stay() -> None:
    assert '"discriminator":{' not in json.dumps(DOCUMENT, separators=(",", ":"))
    properties = {"properties": {"discriminator": {"type": "string"}}}
    assert asyncapi._without_discriminators(properties) == properties


def test_operations_name_who_sends_and_who_acts() -> None:
    for key, operation in DOCUMENT["operations"].items():
        service, action, name = key.split(".")
        assert service in nats_config.SERVICES
        assert operation["action"] == action
        assert operation["channel"] == {"$ref": f"#/channels/{name}"}
    sent = {key.rpartition(".")[2] for key in DOCUMENT["operations"] if ".send." in key}
    assert sent == NAMES


@pytest.mark.parametrize("service", nats_config.SERVICES)
def test_senders_are_those_the_broker_lets_send(service: str) -> None:
    session_events = {
        name for name in asyncapi.SENDERS[service] if ".session." in DOCUMENT["channels"][name]["address"]
    }
    assert session_events == set(nats_config.SESSION_EVENTS[service])


@pytest.mark.parametrize(
    ("service", "consumes"),
    [
        ("accounts", accounts.CONSUMES),
        ("hpc-launcher", launcher.CONSUMES),
        ("cloud-launcher", cloud_launcher.CONSUMES),
        ("tunneler", tunneler.CONSUMES),
    ],
)
def test_readers_are_those_that_decide(service: str, consumes: tuple[type[Any], ...]) -> None:
    assert {"dead-letter-retried"} <= {*asyncapi.READERS[service]}
    named = {name for name in asyncapi.READERS[service] if ".session." in DOCUMENT["channels"][name]["address"]}
    assert named == {event_name(event) for event in consumes}


def test_the_page_of_the_document_is_what_the_schemas_say() -> None:
    written = msgspec.json.format(msgspec.json.encode(asyncapi.document()), indent=2) + b"\n"
    if os.environ.get("FARLAB_UPDATE_GOLDEN") == "1":
        PAGE.write_bytes(written)
    assert PAGE.read_bytes() == written, "stale: python -m schemas.asyncapi > docs/reference/asyncapi.json"
