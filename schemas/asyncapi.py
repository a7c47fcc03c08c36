"""The AsyncAPI 3 document of the contract: `python -m schemas.asyncapi`. Describes; validates nothing."""

from __future__ import annotations

import sys
from typing import Any

import msgspec

from schemas.access import AccessChanged
from schemas.base import Message, event_name, message_type
from schemas.publication import sample_of, schema_of
from schemas.quota import QuotaUpdated
from schemas.session import SessionEvent
from schemas.subjects import Subjects
from schemas.system import SystemEvent
from schemas.wire import CURRENT

SENDERS = {
    "hub-bridge": ("start-requested", "server-ready", "stop-requested"),
    "accounts": (
        "start-waiting",
        "start-admitted",
        "start-rejected",
        "session-ended",
        "quota-updated",
        "access-changed",
    ),
    "launcher": (
        "job-created",
        "job-submitted",
        "job-status-changed",
        "progress-reported",
        "server-listening",
        "stop-requested",
        "session-ended",
    ),
    "tunneler": ("tunnel-ready", "tunnel-lost", "stop-requested"),
    "operator": ("stop-requested", "system-announced", "system-drained", "system-resumed"),
}
"""Who may append what (docs/architecture/events.md); the broker's permissions say the same."""


def document() -> dict[str, Any]:
    """The whole document, in a stable order."""
    messages = {message_type(each): _message(each) for each in CURRENT}
    channels = {event_name(each): _channel(each) for each in CURRENT}
    operations = {
        f"{sender}.{name}": {
            "action": "send",
            "channel": {"$ref": f"#/channels/{name}"},
            "summary": f"The {sender} appends {name}.",
        }
        for sender, names in SENDERS.items()
        for name in names
    }
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Farlab",
            "version": "1",
            "description": "The log of events by which the parts of Farlab cooperate, on NATS JetStream.",
        },
        "defaultContentType": "application/json",
        "channels": channels,
        "operations": operations,
        "components": {"messages": messages},
    }


def _channel(message: type[Message]) -> dict[str, Any]:
    root = Subjects().root
    name = event_name(message)
    if issubclass(message, SessionEvent):
        address, parameters = f"{root}.session.{{hub}}.{{system}}.{{session}}.{name}", ("hub", "system", "session")
    elif issubclass(message, SystemEvent):
        address, parameters = f"{root}.system.{{system}}.{name}", ("system",)  # type: ignore[assignment]
    elif message is QuotaUpdated:
        address, parameters = f"{root}.quota.{{vo}}.{{system}}.{{resource}}.{name}", ("vo", "system", "resource")
    elif message is AccessChanged:
        address, parameters = f"{root}.access.{{user}}.{name}", ("user",)  # type: ignore[assignment]
    else:
        raise TypeError(f"{message.__name__} belongs to no family")
    return {
        "address": address,
        "parameters": {each: {"description": f"Slug of the {each}."} for each in parameters},
        "messages": {message_type(message): {"$ref": f"#/components/messages/{message_type(message)}"}},
    }


def _message(message: type[Message]) -> dict[str, Any]:
    return {
        "name": message_type(message),
        "summary": (message.__doc__ or "").strip().splitlines()[0],
        "contentType": "application/json",
        "payload": schema_of(message),
        "examples": [{"payload": msgspec.to_builtins(sample_of(message))}],
    }


if __name__ == "__main__":
    sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(document()), indent=2) + b"\n")
