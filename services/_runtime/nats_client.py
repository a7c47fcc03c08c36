"""nats-py's client for those who read a whole log: it does less for each message. Changes nothing else of it.

Most of what nats-py (2.16) spends on a message goes into headers, letter by letter, a queue and a task's turn. Our
readers need no header, since a body says its type itself, and take a message at once. What the server says in a status
line goes the usual way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from nats.aio.client import NATS_HDR_LINE, NATS_HDR_LINE_SIZE, Client
from nats.protocol.parser import AWAITING_MSG_PAYLOAD, Parser

CRLF = b"\r\n"
_AFTER_LINE = NATS_HDR_LINE_SIZE + len(CRLF)
_STATUS_FOLLOWS = b" "[0]


class Headers(Mapping[str, str]):
    """The headers of one message, parsed at the first question for one.

    `Status` is none of them: the server puts it into the first line, so a sender who writes such a header says nothing.
    """

    __slots__ = ("_parsed", "_raw")

    def __init__(self, raw: bytes) -> None:
        self._raw = raw
        self._parsed: dict[str, str] | None = None

    def _all(self) -> dict[str, str]:
        if self._parsed is None:
            self._parsed = Client._parse_header_lines(self._raw[_AFTER_LINE:])
            self._parsed.pop("Status", None)
        return self._parsed

    def __bool__(self) -> bool:
        return True

    def __getitem__(self, name: str) -> str:
        return self._all()[name]

    def get(self, name: str, default: Any = None) -> Any:
        """The value of a header, or the default."""
        return default if name == "Status" else self._all().get(name, default)

    def __iter__(self) -> Iterator[str]:
        return iter(self._all())

    def __len__(self) -> int:
        return len(self._all())


Straight = Callable[[str, bytes], None]
"""Takes a message: the subject to answer to, which has its place in the stream, and the body. Must not raise."""


class StraightParser(Parser):
    """Reads the wire. Messages with headers for a subscription that takes them `straight` need no queue and no task."""

    def __init__(self, client: Client) -> None:
        super().__init__(client)
        self.straight: dict[int, Straight] = {}

    async def parse(self, data: bytes = b"") -> None:
        """See nats-py's parser, which gets what is for it piece by piece, so that no message overtakes another."""
        if not self.straight:
            await super().parse(data)
            return
        while data:
            if self.state == AWAITING_MSG_PAYLOAD:
                missing = self.needed + len(CRLF) - len(self.buf)
                await super().parse(data[:missing])
                data = data[missing:]
                continue
            rest, cut_off = self._taken(bytes(self.buf) + data if self.buf else data)
            self.buf.clear()
            line = 0 if cut_off else rest.find(CRLF) + len(CRLF)
            if line < len(CRLF):
                self.buf.extend(rest)
                return
            await super().parse(rest[:line])
            data = rest[line:]

    def _taken(self, data: bytes) -> tuple[bytes, bool]:
        """What is left after the messages that can be taken straight, and whether that is the beginning of another."""
        position, length = 0, len(data)
        while data.startswith(b"HMSG ", position):
            end = data.find(CRLF, position)
            if end < 0:
                break
            arguments = data[position + 5 : end].split()
            # subject, sid, the subject to answer to, the size of the headers, and of all: NATS client protocol, HMSG
            if len(arguments) != 5 or (take := self.straight.get(int(arguments[1]))) is None:
                break
            begin = end + len(CRLF)
            body, after = begin + int(arguments[3]), begin + int(arguments[4])
            if after + len(CRLF) > length:
                return data[position:], True
            if data[begin + NATS_HDR_LINE_SIZE] == _STATUS_FOLLOWS:
                break
            take(arguments[2].decode(), data[body:after])
            position = after + len(CRLF)
        return data[position:], False


class QuickClient(Client):
    """A NATS client for those who read many messages."""

    def __init__(self) -> None:
        super().__init__()
        self._ps: StraightParser = StraightParser(self)

    def take_straight(self, subscription: int, take: Straight | None) -> None:
        """Hands the messages of a subscription over as they come off the wire, or no longer."""
        if take is None:
            self._ps.straight.pop(subscription, None)
        else:
            self._ps.straight[subscription] = take

    async def _process_headers(self, headers: Any) -> Any:
        line = len(NATS_HDR_LINE)
        if not headers or len(headers) <= _AFTER_LINE + 2 or headers[line] == _STATUS_FOLLOWS:
            return await super()._process_headers(headers)
        return Headers(bytes(headers))
