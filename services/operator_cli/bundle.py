"""A file with the histories of some sessions, redacted, that can be read anywhere. Sends nothing.

JSON lines: a header, an event a line, and a last line with the SHA-256 of all before it, so that a file that was cut
off is known. A bundle of a newer format is refused, an event of a newer type is left out and counted.
"""

from __future__ import annotations

import hmac
import os
import secrets
from collections.abc import Iterable, Sequence
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec

from schemas.base import Message, SessionId
from schemas.privacy import personal_values, redacted
from schemas.session import SessionEvent
from schemas.wire import UndecodableError, decode, encode
from services._runtime.configuration import ConfigurationError
from services._runtime.log import Recorded
from services.operator_cli.story.history import History

FORMAT = 1
SUFFIX = ".farlab.jsonl"


class Header(msgspec.Struct, frozen=True, kw_only=True, tag_field="line", tag="farlab-bundle"):
    """The first line."""

    format: int
    made_at: datetime
    made_by: str
    sessions: int
    events: int


class _Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="line", tag="event"):
    sequence: int
    body: msgspec.Raw


class _End(msgspec.Struct, frozen=True, kw_only=True, tag_field="line", tag="end"):
    sha256: str


class Bundle(msgspec.Struct, frozen=True):
    """A bundle as it was read; `unreadable` events are of a type or version this build does not know."""

    header: Header
    histories: Sequence[History]
    unreadable: int


def exported(histories: Iterable[History], *, made_at: datetime, made_by: str, key: bytes | None = None) -> bytes:
    """The bundle of these histories. Pseudonyms hold within it and, with a `key` of its own each, nowhere else."""
    events = [recorded for history in histories for recorded in history if isinstance(recorded.message, SessionEvent)]
    pseudonyms = _pseudonyms([each.message for each in events], key or secrets.token_bytes(32))
    count = len({each.message.session for each in events if isinstance(each.message, SessionEvent)})
    header = Header(format=FORMAT, made_at=made_at, made_by=made_by, sessions=count, events=len(events))
    lines: list[Any] = [header]
    lines += [
        _Event(sequence=each.sequence, body=msgspec.Raw(encode(redacted(each.message, pseudonyms)))) for each in events
    ]
    text = b"".join(msgspec.json.encode(line) + b"\n" for line in lines)
    return text + msgspec.json.encode(_End(sha256=sha256(text).hexdigest())) + b"\n"


def write(file: Path, content: bytes) -> None:
    """Writes a bundle for its owner only, whole or not at all. Raises ConfigurationError."""
    temporary = file.with_name(file.name + ".new")
    try:
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as out:
            out.write(content)
        temporary.replace(file)
    except OSError as error:
        raise ConfigurationError(f"{file}: cannot be written: {error.strerror}; name another file") from None


def read(file: Path) -> Bundle:
    """A bundle. Raises ConfigurationError for a file that is missing, no bundle, cut off, changed or too new."""
    try:
        content = file.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{file}: {error.strerror}; name a file that `farlab export` wrote") from None
    first, _, _ = content.partition(b"\n")
    try:
        header = msgspec.json.decode(first, type=Header)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise ConfigurationError(f"{file}: not a bundle; name a file that `farlab export` wrote") from None
    if header.format > FORMAT:
        raise ConfigurationError(
            f"{file}: a bundle of format {header.format}, and this build reads up to {FORMAT}; take a newer `farlab`"
        )
    body, end = _without_end(content, file)
    if sha256(body).hexdigest() != end.sha256:
        raise ConfigurationError(f"{file}: changed after it was written; have it exported again")
    return _bundle(header, body.splitlines()[1:], file)


def _without_end(content: bytes, file: Path) -> tuple[bytes, _End]:
    body, _, last = content.rstrip(b"\n").rpartition(b"\n")
    try:
        return body + b"\n", msgspec.json.decode(last, type=_End)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise ConfigurationError(f"{file}: its end is missing; have it copied or exported again") from None


def _bundle(header: Header, lines: Iterable[bytes], file: Path) -> Bundle:
    histories: dict[SessionId, list[Recorded]] = {}
    unreadable = 0
    for number, line in enumerate(lines, 2):
        try:
            event = msgspec.json.decode(line, type=_Event)
            message: Message = decode(bytes(event.body))
        except UndecodableError:
            unreadable += 1
            continue
        except msgspec.MsgspecError as error:
            raise ConfigurationError(f"{file}: line {number} is no event: {error}; have it exported again") from None
        if isinstance(message, SessionEvent):
            histories.setdefault(message.session, []).append(Recorded(event.sequence, message))
    return Bundle(header, list(histories.values()), unreadable)


def _pseudonyms(messages: Iterable[Message], key: bytes) -> dict[str, str]:
    values: set[str] = set()
    for message in messages:
        values |= personal_values(message)
    return {value: "x" + hmac.new(key, value.encode(), sha256).hexdigest()[:10] for value in values}
