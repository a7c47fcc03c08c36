"""Which port a tunnel gets: nobody's whose user is still sent there."""

from __future__ import annotations

import socket

import pytest

from schemas.base import SessionId
from services.tunneler.listening import PortRange, PromisedPorts
from services.tunneler.ports import Address, LostError

ADA, BEN = SessionId("ada"), SessionId("ben")
HOST = "127.0.0.1"


class Taken:
    """Listens as a forward does, and says which ports it was given. Omits traffic."""

    def __init__(self) -> None:
        self.ports: list[int] = []
        self._sockets: list[socket.socket] = []

    async def listen(self, host: str, port: int) -> None:
        taken = socket.socket()
        self._sockets.append(taken)
        taken.bind((host, port))
        taken.listen()
        self.ports.append(port)

    def close(self) -> None:
        for each in self._sockets:
            each.close()


@pytest.mark.parametrize("spread", [0, 20])
async def test_a_port_promised_to_a_living_session_is_given_to_no_other(spread: int) -> None:
    promised, taken = PromisedPorts(), Taken()
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        free = int(probe.getsockname()[1])
    ports = PortRange(HOST, (free, free + spread) if spread else (0, 0), promised)
    promised.told(ADA, Address(HOST, free))
    await ports.listen(taken.listen, free, BEN)
    assert taken.ports != [free]
    await ports.listen(taken.listen, promised.port_of(ADA, HOST), ADA)
    assert taken.ports[1] == free
    taken.close()


async def test_a_promise_ends_with_its_session_or_another_promise() -> None:
    promised = PromisedPorts()
    first, second = Address(HOST, 4001), Address(HOST, 4002)
    promised.told(ADA, first)
    assert not promised.may_have(BEN, first)
    promised.told(ADA, second)
    assert promised.may_have(BEN, first)
    promised.told(BEN, second)  # the log has the last word
    promised.over(ADA)
    assert not promised.may_have(ADA, second)
    assert (promised.port_of(BEN, HOST), promised.port_of(BEN, "10.0.0.1"), promised.port_of(ADA, HOST)) == (4002, 0, 0)


async def test_a_range_that_is_promised_whole_says_what_to_do() -> None:
    promised, taken = PromisedPorts(), Taken()
    promised.told(ADA, Address(HOST, 4001))
    with pytest.raises(LostError, match=r"4001-4001 is taken; widen tunneler\.ports"):
        await PortRange(HOST, (4001, 4001), promised).listen(taken.listen, 0, BEN)
    taken.close()
