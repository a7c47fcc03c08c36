"""Bytes to messages and back: the tagged union of everything ever published, upcast to the newest. No transport.

A body is the message alone as JSON, its type and version as the tag `type` (msgspec's tagged unions), so that a stored
message decodes without its headers. Headers follow the CloudEvents 1.0 NATS binding in binary mode.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache, lru_cache
from hashlib import sha256
from typing import Union, get_args

import msgspec

from schemas.access import AccessChanged, AnySignInEvent
from schemas.acts import AnyAct
from schemas.base import UNSTAMPED, EventId, Message, SessionId, message_type
from schemas.quota import QuotaUpdated
from schemas.retired import UPCASTERS, Upcaster
from schemas.session import AnySessionEvent, SessionEvent
from schemas.system import AnySystemEvent

CURRENT: tuple[type[Message], ...] = (
    *get_args(AnySessionEvent),
    *get_args(AnySystemEvent),
    *get_args(AnyAct),
    QuotaUpdated,
    AccessChanged,
    *get_args(AnySignInEvent),
)
"""Every message of today, newest versions only."""

_SPAN = re.compile(r"[0-9a-f]{16}")
_CROCKFORD = "0123456789abcdefghjkmnpqrstvwxyz"

_encoder = msgspec.json.Encoder()


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
    """The body of a message.

    Raises ValueError for one that was never stamped with id, time and source, or that no reader would take: a struct
    does not check itself when it is made, and what is in the log stays there.
    """
    if message.id == UNSTAMPED or not message.source:
        raise ValueError(f"{type(message).__name__} was not stamped: it has no id or no source")
    body = _encoder.encode(message)
    try:
        decode(body)
    except UndecodableError as error:
        raise ValueError(f"nobody could read this message: {error}") from error
    return body


class Codec:
    """Reads the bodies of some messages of today and of the versions they replaced. The product has one, `decode`'s."""

    def __init__(self, current: Sequence[type[Message]], upcasters: Sequence[Upcaster]) -> None:
        """Raises ValueError where a version is both current and retired, or retired twice."""
        self.readable = (*current, *(upcaster.retired for upcaster in upcasters))
        self._by_type = {message_type(message): message for message in self.readable}
        if len(self._by_type) < len(self.readable):
            raise ValueError("a message version is listed twice: it is either current or retired, and once")
        self._current = frozenset(current)
        self._upcast = {upcaster.retired: upcaster.to_next for upcaster in upcasters}
        self._decoder: msgspec.json.Decoder[Message] = msgspec.json.Decoder(Union[self.readable])  # noqa: UP007 - a tuple becomes a union

    def decode(self, body: bytes) -> Message:
        """The message in a body, upcast to its newest version.

        Raises UnknownTypeError for a type that is not known, UndecodableError for anything else that is wrong.
        """
        try:
            message = self._decoder.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise self._undecodable(body, error) from error
        if type(message) not in self._current:
            message = self._newest(message)
        if message.id == UNSTAMPED or not message.source:
            raise UndecodableError(f"{message_type(message)} has no id or no source")
        return message

    def _newest(self, message: Message) -> Message:
        stored = message_type(message)
        try:
            # A chain is no longer than there are upcasters: one that leads back into itself ends here.
            for _ in self._upcast:
                message = self._upcast[type(message)](message)
                if type(message) in self._current:
                    return message
        except Exception as error:
            # An upcaster is pure, so trying again would not help: the message is kept whole for a mended build.
            raise UndecodableError(f"{stored} could not be upcast: {type(error).__name__}") from error
        raise UndecodableError(f"{stored} has no chain of upcasters to a version of today")

    def _undecodable(self, body: bytes, error: Exception) -> UndecodableError:
        try:
            type_name = _tag_decoder.decode(body).type
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return UndecodableError(f"the body is not a message: {error}")
        if type_name not in self._by_type:
            return UnknownTypeError(type_name[:100])
        return UndecodableError(f"{type_name}: {error}")


_CODEC = Codec(CURRENT, UPCASTERS)
READABLE: tuple[type[Message], ...] = _CODEC.readable
"""Every message this build can read: those of today and those they replaced."""


def decode(body: bytes) -> Message:
    """The message in a body, upcast to its newest version.

    Raises UnknownTypeError for a type that is not known, UndecodableError for anything else that is wrong.
    """
    return _CODEC.decode(body)


def decode_session_event(body: bytes) -> SessionEvent:
    """The session event in a body. Raises UndecodableError for any other message."""
    message = decode(body)
    if not isinstance(message, SessionEvent):
        raise UndecodableError(f"{message_type(message)} is not an event of a session")
    return message


@cache
def _type_of(message: type[Message]) -> str:
    return message_type(message)


_PLAIN, _UNFIT = re.compile(r"[!-~]*"), re.compile(r"[^!-~]")


@lru_cache(maxsize=4096)
def trace_id(session: SessionId) -> str:
    """The W3C trace id of a session: its ULID is 128 bits, and so is a trace id."""
    number = 0
    for character in session:
        number = number * 32 + _CROCKFORD.index(character)
    return f"{number & (1 << 128) - 1:032x}"


def traceparent(event: SessionEvent) -> str:
    """The W3C Trace Context of an event: the trace is its session's, and the span its own."""
    return f"00-{trace_id(event.session)}-{span_id(event.id)}-01"


def span_id(event: EventId) -> str:
    """The W3C span id of an event: the beginning of its id, or a digest where that is no hexadecimal number."""
    span = event[:16]
    if _SPAN.fullmatch(span) and int(span, 16):
        return span
    return sha256(event.encode()).hexdigest()[:16]


def cloudevents_headers(message: Message) -> dict[str, str]:
    """The CloudEvents attributes of a message as NATS headers (`ce-` prefix, binary mode).

    A cause is the id of somebody else's message: no value may end its line and begin a header of its own.
    """
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
        headers["traceparent"] = traceparent(message)
    if message.cause is not None:
        headers["ce-causationid"] = message.cause
    return {name: value if _PLAIN.fullmatch(value) else _UNFIT.sub("?", value) for name, value in headers.items()}
