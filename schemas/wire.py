"""Bytes to messages and back: the tagged union of everything ever published, upcast to the newest. No transport.

A body is the message alone as JSON, its type and version as the tag `type` (msgspec's tagged unions), so that a stored
message decodes without its headers. Headers follow the CloudEvents 1.0 NATS binding in binary mode.
"""

from __future__ import annotations

from functools import cache, lru_cache
from typing import Union, get_args

import msgspec

from schemas.access import AccessChanged
from schemas.base import UNSTAMPED, Message, SessionId, message_type
from schemas.quota import QuotaUpdated
from schemas.retired import UPCASTERS
from schemas.session import AnySessionEvent, SessionEvent
from schemas.system import AnySystemEvent

CURRENT: tuple[type[Message], ...] = (
    *get_args(AnySessionEvent),
    *get_args(AnySystemEvent),
    QuotaUpdated,
    AccessChanged,
)
"""Every message of today, newest versions only."""

_upcast = {upcaster.retired: upcaster.to_next for upcaster in UPCASTERS}
READABLE: tuple[type[Message], ...] = (*CURRENT, *_upcast)
_by_type: dict[str, type[Message]] = {message_type(message): message for message in READABLE}

_CROCKFORD = "0123456789abcdefghjkmnpqrstvwxyz"

_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[Message] = msgspec.json.Decoder(Union[READABLE])  # noqa: UP007 - a tuple becomes a union


class UndecodableError(ValueError):
    """The body is not a message of this contract: it belongs whole into the dead letters."""


class UnknownTypeError(UndecodableError):
    """The body is well-formed and of a type this build does not know: skipped with a counted warning."""

    def __init__(self, type_name: str) -> None:
        self.type_name = type_name
        super().__init__(f"message type {type_name!r} is not known to this build; a newer part may have sent it")


class _Tag(msgspec.Struct):
    type: str


_tag_decoder = msgspec.json.Decoder(_Tag)


def encode(message: Message) -> bytes:
    """The body of a message. Raises ValueError for one that was never stamped with id, time and source."""
    if message.id == UNSTAMPED or not message.source:
        raise ValueError(f"{type(message).__name__} was not stamped: it has no id or no source")
    return _encoder.encode(message)


def decode(body: bytes) -> Message:
    """The message in a body, upcast to its newest version.

    Raises UnknownTypeError for a type that is not known, UndecodableError for anything else that is wrong.
    """
    try:
        message = _decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _undecodable(body, error) from error
    while (to_next := _upcast.get(type(message))) is not None:
        message = to_next(message)
    if message.id == UNSTAMPED or not message.source:
        raise UndecodableError(f"{message_type(message)} has no id or no source")
    return message


def decode_session_event(body: bytes) -> SessionEvent:
    """The session event in a body. Raises UndecodableError for any other message."""
    message = decode(body)
    if not isinstance(message, SessionEvent):
        raise UndecodableError(f"{message_type(message)} is not an event of a session")
    return message


def _undecodable(body: bytes, error: Exception) -> UndecodableError:
    try:
        type_name = _tag_decoder.decode(body).type
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return UndecodableError(f"the body is not a message: {error}")
    if type_name not in _by_type:
        return UnknownTypeError(type_name[:100])
    return UndecodableError(f"{type_name}: {error}")


@cache
def _type_of(message: type[Message]) -> str:
    return message_type(message)


@lru_cache(maxsize=4096)
def trace_id(session: SessionId) -> str:
    """The W3C trace id of a session: its ULID is 128 bits, and so is a trace id."""
    number = 0
    for character in session:
        number = number * 32 + _CROCKFORD.index(character)
    return f"{number & (1 << 128) - 1:032x}"


def cloudevents_headers(message: Message) -> dict[str, str]:
    """The CloudEvents attributes of a message as NATS headers (`ce-` prefix, binary mode)."""
    headers = {
        "ce-specversion": "1.0",
        "ce-id": message.id,
        "ce-source": message.source,
        "ce-type": _type_of(type(message)),
        "ce-time": message.at.isoformat().replace("+00:00", "Z"),
        "ce-datacontenttype": "application/json",
        "Nats-Msg-Id": message.id,
    }
    if isinstance(message, SessionEvent):
        headers["ce-subject"] = message.session
        headers["ce-correlationid"] = message.session
        headers["traceparent"] = f"00-{trace_id(message.session)}-{message.id[:16]}-01"
    if message.cause is not None:
        headers["ce-causationid"] = message.cause
    return headers
