"""What our client does quicker than nats-py must come out the same, however the bytes arrive."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import nats
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nats.aio.client import Client

from services._runtime.nats_client import Headers, QuickClient, StraightParser
from tests.support.broker import NatsServer, nats_server

STATUS = b"NATS/1.0 100 Idle Heartbeat\r\nNats-Last-Consumer: 7\r\n\r\n"


def hmsg(sid: int, headers: bytes, body: bytes, reply: bytes = b"$JS.ACK.S.c.1.2.3.4.5") -> bytes:
    sizes = f"{len(headers)} {len(headers) + len(body)}".encode()
    return b"HMSG subject %d %s %s\r\n%s%s\r\n" % (sid, reply, sizes, headers, body)


class Recorder(Client):
    """A client that has no connection and notes what reaches its subscriptions' queues."""

    def __init__(self) -> None:
        super().__init__()
        self.queued: list[tuple[int, bytes]] = []

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> None:
        self.queued.append((sid, bytes(data)))

    async def _process_ping(self) -> None:
        self.queued.append((0, b"ping"))


ONE = st.one_of(
    st.builds(lambda body: ("straight", hmsg(1, b"NATS/1.0\r\na: b\r\n\r\n", body), body), st.binary(max_size=40)),
    st.builds(lambda body: ("other", hmsg(2, b"NATS/1.0\r\na: b\r\n\r\n", body), body), st.binary(max_size=40)),
    st.builds(lambda body: ("other", b"MSG s 2 %d\r\n%s\r\n" % (len(body), body), body), st.binary(max_size=40)),
    st.just(("status", hmsg(1, STATUS, b""), b"")),
    st.just(("ping", b"PING\r\n", b"ping")),
)


@given(st.lists(ONE, max_size=12), st.lists(st.integers(1, 60), min_size=1, max_size=40))
def test_every_message_arrives_once_and_in_order_however_the_wire_is_cut(
    messages: list[tuple[str, bytes, bytes]], cuts: list[int]
) -> None:
    client = Recorder()
    parser, straight = StraightParser(client), list[bytes]()
    parser.straight[1] = lambda _reply, body: straight.append(body)
    wire, position = b"".join(each[1] for each in messages), 0

    async def feed() -> None:
        nonlocal position
        number = 0
        while position < len(wire):
            size = cuts[number % len(cuts)]
            await parser.parse(wire[position : position + size])
            position, number = position + size, number + 1

    asyncio.run(feed())
    assert straight == [body for kind, _, body in messages if kind == "straight"]
    assert [body for _, body in client.queued] == [body for kind, _, body in messages if kind != "straight"]
    assert not parser.buf


@pytest.mark.parametrize("raw", [b"a: b\r\nNats-Msg-Id:x\r\n\r\n", b"\r\n", b"odd\r\nc:\xc3\xa9 \r\n\r\n"])
def test_headers_are_those_of_nats_py(raw: bytes) -> None:
    headers = Headers(b"NATS/1.0\r\n" + raw)
    assert headers
    assert dict(headers) == Client._parse_header_lines(raw)
    assert [headers.get(name) for name in headers] == [headers[name] for name in headers]


def test_only_the_server_says_a_status() -> None:
    headers = Headers(b"NATS/1.0\r\nStatus: 100\r\nother: x\r\n\r\n")
    assert headers.get("Status") is None
    assert dict(headers) == {"other": "x"}


async def test_it_speaks_with_a_real_server_as_before(tmp_path: Path) -> None:
    async with nats_server(tmp_path) as server, await nats.connect(server.url) as plain, await nats_of(server) as quick:
        subscription = await quick.subscribe("quick.>")
        taken: list[tuple[str, bytes]] = []
        through = await quick.subscribe("straight.>", cb=_never)
        quick.take_straight(through._id, lambda reply, body: taken.append((reply, body)))
        await quick.flush()
        for number in range(3):
            await plain.publish("straight.x", b"%d" % number, reply="back", headers={"n": str(number)})
        await plain.publish("quick.x", b"body", headers={"name": "value", "Status": "100"})
        message = await subscription.next_msg(timeout=5)
        assert (message.data, message.headers and dict(message.headers)) == (b"body", {"name": "value"})
        assert taken == [("back", b"0"), ("back", b"1"), ("back", b"2")]


async def nats_of(server: NatsServer) -> QuickClient:
    client = QuickClient()
    await client.connect(server.url)
    return client


async def _never(message: Any) -> None:
    raise AssertionError(f"{message.subject} went through the queue")
