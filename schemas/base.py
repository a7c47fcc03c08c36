"""What every message has: an identity, a time, a source and a cause. Says nothing of what a message means."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, NewType

import msgspec
from msgspec import Meta

EventId = NewType("EventId", str)
SessionId = NewType("SessionId", str)
"""A ULID in lower case, made by the hub bridge: 26 characters of Crockford's base 32."""
SignInId = NewType("SignInId", str)
"""One sign-in of one browser: a ULID as well, made by the hub bridge."""
HubName = NewType("HubName", str)
SystemName = NewType("SystemName", str)
UserName = NewType("UserName", str)
"""The name JupyterHub knows the user by, as it is; only subjects carry its slug."""

SLUG_PATTERN = r"^[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$"
SESSION_ID_PATTERN = r"^[0-7][0-9a-hjkmnp-tv-z]{25}$"

PERSONAL = Meta(extra={"privacy": "personal"})
"""Marks a field that tells of a person or of a site's inside; exports put a pseudonym in its place (`privacy`)."""
WORDS = Meta(extra={"privacy": "words"})
"""Marks text for people, in which such values may occur."""
DROPPED = Meta(extra={"privacy": "dropped"})
"""Marks what no export takes along."""

Slug = Annotated[str, Meta(pattern=SLUG_PATTERN, max_length=63)]
SessionIdField = Annotated[SessionId, Meta(pattern=SESSION_ID_PATTERN)]
SignInIdField = Annotated[SignInId, Meta(pattern=SESSION_ID_PATTERN)]
HubNameField = Annotated[HubName, Meta(pattern=SLUG_PATTERN, max_length=63)]
SystemNameField = Annotated[SystemName, Meta(pattern=SLUG_PATTERN, max_length=63)]
UserNameField = Annotated[UserName, Meta(min_length=1, max_length=255), PERSONAL]
ShortText = Annotated[str, Meta(max_length=1024), WORDS]
LongText = Annotated[str, Meta(max_length=16384), DROPPED]
Port = Annotated[int, Meta(ge=1, le=65535)]
PositiveInt = Annotated[int, Meta(ge=1)]
Count = Annotated[int, Meta(ge=0)]
Percent = Annotated[int, Meta(ge=0, le=100)]
UtcDatetime = Annotated[datetime, Meta(tz=True)]

UNSTAMPED = EventId("")
_EPOCH = datetime.fromisoformat("1970-01-01T00:00:00+00:00")


class Message(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    """Base of every message: a fact that was, in the words of its type.

    Deciders build messages without identity; `stamp` gives it when they are appended, and `wire.encode`
    refuses one that was never stamped. `cause` is the id of the message that led to this one.
    """

    id: Annotated[EventId, Meta(max_length=64)] = UNSTAMPED
    at: UtcDatetime = _EPOCH
    source: Annotated[str, Meta(max_length=255)] = ""
    cause: Annotated[EventId, Meta(max_length=64)] | None = None


def message_type(message: type[Message] | Message) -> str:
    """The type and version of a message, as its tag and `ce-type` spell it, such as `start-requested.v1`."""
    tag = message.__struct_config__.tag
    if not isinstance(tag, str):
        raise TypeError(f"{message!r} has no message type: only concrete messages have one")
    return tag


def event_name(message: type[Message] | Message) -> str:
    """The message's type without its version: the last token of its subject."""
    return message_type(message).rpartition(".v")[0]
