"""The AsyncAPI 3 document of the contract: `python -m schemas.asyncapi`. Describes; validates nothing."""

from __future__ import annotations

import sys
from typing import Any

import msgspec

from schemas.access import AccessChanged, SignInEvent
from schemas.acts import Act, SessionAct
from schemas.base import Message, event_name, message_type
from schemas.publication import ALWAYS, sample_of
from schemas.quota import QuotaUpdated
from schemas.session import SessionEvent
from schemas.subjects import Subjects
from schemas.system import SystemEvent
from schemas.wire import CURRENT, cloudevents_headers

SENDERS = {
    "hub-bridge": ("start-requested", "server-ready", "stop-requested", "signed-in", "signed-out"),
    "accounts": (
        "start-waiting",
        "start-admitted",
        "start-rejected",
        "stop-requested",
        "session-ended",
        "quota-updated",
        "access-changed",
    ),
    "hpc-launcher": (
        "job-created",
        "job-submitted",
        "job-status-changed",
        "progress-reported",
        "server-listening",
        "stop-requested",
        "session-ended",
    ),
    "cloud-launcher": (
        "job-created",
        "job-submitted",
        "job-status-changed",
        "progress-reported",
        "server-listening",
        "stop-requested",
        "session-ended",
    ),
    "tunneler": ("tunnel-ready", "tunnel-lost", "stop-requested"),
    "operator-cli": (
        "stop-requested",
        "system-announced",
        "system-drained",
        "system-resumed",
        "system-down",
        "system-up",
        "adoption-requested",
        "end-requested",
        "dead-letter-retried",
        "dead-letter-discarded",
        "secrets-purged",
        "limit-requested",
    ),
}
"""Who may append what (docs/architecture/events.md); the broker's permissions say the same."""

READERS = {
    "hub-bridge": tuple(event_name(each) for each in CURRENT if issubclass(each, SessionEvent)),
    "accounts": (
        "start-requested",
        "start-rejected",
        "stop-requested",
        "session-ended",
        "system-drained",
        "system-resumed",
        "signed-in",
        "signed-out",
        "end-requested",
        "dead-letter-retried",
        "limit-requested",
    ),
    "hpc-launcher": (
        "start-admitted",
        "stop-requested",
        "session-ended",
        "adoption-requested",
        "end-requested",
        "dead-letter-retried",
    ),
    "cloud-launcher": (
        "start-admitted",
        "stop-requested",
        "session-ended",
        "adoption-requested",
        "end-requested",
        "dead-letter-retried",
    ),
    "tunneler": ("server-listening", "tunnel-lost", "dead-letter-retried"),
}
"""What makes a service act; every service also follows whole sessions to know their state."""

_SCHEMAS = "#/components/schemas/{name}"


def document() -> dict[str, Any]:
    """The whole document, in a stable order."""
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Farlab",
            "version": "1",
            "description": "The log of events by which the parts of Farlab cooperate, on NATS JetStream.",
        },
        "defaultContentType": "application/json",
        "channels": {event_name(each): _channel(each) for each in CURRENT},
        "operations": _operations("send", "appends", SENDERS) | _operations("receive", "acts on", READERS),
        "components": {
            "messages": {message_type(each): _message(each) for each in CURRENT},
            "schemas": _schemas(),
        },
    }


def _operations(action: str, verb: str, services: dict[str, tuple[str, ...]]) -> dict[str, Any]:
    return {
        f"{service}.{action}.{name}": {
            "action": action,
            "channel": {"$ref": f"#/channels/{name}"},
            "summary": f"The {service} {verb} {name}.",
        }
        for service, names in services.items()
        for name in names
    }


def _channel(message: type[Message]) -> dict[str, Any]:
    name = event_name(message)
    family, parameters = _family(message)
    tokens = [Subjects().root, family, *(f"{{{each}}}" for each in parameters), name]
    return {
        "address": ".".join(tokens),
        "parameters": {each: {"description": f"Slug of the {each}."} for each in parameters},
        "messages": {message_type(message): {"$ref": f"#/components/messages/{message_type(message)}"}},
    }


def _family(message: type[Message]) -> tuple[str, tuple[str, ...]]:
    """The family's token in a subject, and the parameters that follow it."""
    if issubclass(message, SessionEvent):
        return "session", ("hub", "system", "session")
    if issubclass(message, SystemEvent):
        return "system", ("system",)
    if issubclass(message, QuotaUpdated):
        return "quota", ("vo", "system", "resource")
    if issubclass(message, AccessChanged):
        return "access", ("user",)
    if issubclass(message, SignInEvent):
        return "access", ("user", "sign_in")
    if issubclass(message, SessionAct):
        return "act", ("service", "system", "session")
    if issubclass(message, Act):
        return "act", ("service",)
    raise TypeError(f"{message.__name__} belongs to no family")


def _message(message: type[Message]) -> dict[str, Any]:
    [reference], _ = msgspec.json.schema_components([message], ref_template=_SCHEMAS)
    sample = sample_of(message)
    headers = cloudevents_headers(sample)
    described = {
        "name": message_type(message),
        "summary": (message.__doc__ or "").strip().splitlines()[0],
        "contentType": "application/json",
        "headers": {
            "type": "object",
            "properties": {name: {"type": "string"} for name in headers},
            # The cause is the only header that a message may lack: the first of its chain has none.
            "required": [name for name in headers if name != "ce-causationid"],
        },
        "payload": reference,
        "examples": [{"headers": headers, "payload": msgspec.to_builtins(sample)}],
    }
    if issubclass(message, SessionEvent):
        described["correlationId"] = {"location": "$message.header#/ce-correlationid"}
    return described


def _schemas() -> dict[str, Any]:
    """The schemas of all messages and of what they hold, where every reference of the document finds them."""
    references, schemas = msgspec.json.schema_components(CURRENT, ref_template=_SCHEMAS)
    for reference in references:
        schema = schemas[reference["$ref"].rpartition("/")[2]]
        schema["required"] = [*ALWAYS, *(each for each in schema.get("required", []) if each not in ALWAYS)]
    plain: dict[str, Any] = _without_discriminators(schemas)
    return plain


def _without_discriminators(schema: Any) -> Any:
    """The schema without OpenAPI's `discriminator` objects, which AsyncAPI refuses; the tag's `enum` says the same."""
    match schema:
        case dict():
            kept = {key: value for key, value in schema.items() if not (key == "discriminator" and "anyOf" in schema)}
            return {key: _without_discriminators(value) for key, value in kept.items()}
        case list():
            return [_without_discriminators(each) for each in schema]
        case _:
            return schema


if __name__ == "__main__":
    sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(document()), indent=2) + b"\n")
