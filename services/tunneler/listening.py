"""Which port of our side leads to a server: one of a range, in turn, and never another's. Leads nowhere itself."""

from __future__ import annotations

import errno
import socket
from collections.abc import Awaitable, Callable, Iterator
from typing import Generic, Protocol, TypeVar

from schemas.base import SessionId
from services.tunneler.ports import Address, LostError

BACKLOG = 1024
ANY_PORT_TRIES = 100


class PromisedPorts:
    """The addresses that hubs were told of. While a session lives, no other's tunnel may be at its address.

    A port that a dead tunneler left free is still where hub and proxy send its session's user, until they hear of
    another: whoever took it meanwhile would be given that user.
    """

    def __init__(self) -> None:
        self._of: dict[SessionId, Address] = {}
        self._at: dict[Address, SessionId] = {}

    def told(self, session: SessionId, address: Address) -> None:
        """The log says that the session's server is reached here, and no longer where it was before."""
        self.over(session)
        self._of[session] = address
        self._at[address] = session

    def over(self, session: SessionId) -> None:
        """Nobody is sent there any more. Safe to repeat."""
        before = self._of.pop(session, None)
        if before is not None and self._at.get(before) == session:
            del self._at[before]

    def port_of(self, session: SessionId, host: str) -> int:
        """The port of `host` that was promised to the session; 0: there is none."""
        promised = self._of.get(session)
        return promised.port if promised is not None and promised.host == host else 0

    def may_have(self, session: SessionId, address: Address) -> bool:
        """Whether the address is promised to nobody else."""
        return self._at.get(address, session) == session


class PortRange:
    """The ports of one address that tunnels may listen on; `(0, 0)` is any free one."""

    def __init__(self, host: str, ports: tuple[int, int], promised: PromisedPorts | None = None) -> None:
        self._host = host
        self._ports = ports
        self._next = ports[0]
        self._promised = promised or PromisedPorts()

    async def listen(self, listen: Callable[[str, int], Awaitable[None]], wanted: int, session: SessionId) -> None:
        """Lets `listen` take a free port that is promised to no other session, `wanted` where it can be had.

        Raises LostError when all are taken.
        """
        for port in self._candidates(wanted):
            if not self._promised.may_have(session, Address(self._host, port)):
                continue
            try:
                await listen(self._host, port)
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise LostError(f"cannot listen on {self._host}:{port}: {error.strerror}") from error
                continue
            return
        low, high = self._ports
        where = f"every port of {low}-{high}" if low else "every port that was tried"
        raise LostError(f"{where} is taken; widen tunneler.ports")

    def _candidates(self, wanted: int) -> Iterator[int]:
        low, high = self._ports
        if wanted and (low == 0 or low <= wanted <= high):
            yield wanted
        if low == 0:
            for _ in range(ANY_PORT_TRIES):
                yield self._any_free()
            return
        for _ in range(high - low + 1):
            port = self._next
            self._next = low if port >= high else port + 1
            yield port

    def _any_free(self) -> int:
        """A port that is free now; whether it may be had is known only when it has a number."""
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        with socket.socket(family) as probe:
            try:
                probe.bind((self._host, 0))
            except OSError as error:
                raise LostError(f"cannot listen on {self._host}: {error.strerror}") from error
            return int(probe.getsockname()[1])


class Listener(Protocol):
    """Something of ours that listens and leads to one target."""

    @property
    def target(self) -> Address:
        """Where it leads."""

    async def listen(self, host: str, port: int) -> None:
        """Listens. Raises OSError when the port is taken."""

    async def close(self) -> None:
        """Listens no more and ends every connection."""


L = TypeVar("L", bound=Listener)


class Listeners(Generic[L]):
    """The listeners of one system's sessions, one for each."""

    def __init__(self, ports: PortRange) -> None:
        self._ports = ports
        self._of: dict[SessionId, L] = {}

    async def open(self, session: SessionId, target: Address, wanted_port: int, make: Callable[[], L]) -> L:
        """The session's listener to the target: the one that is there, or a new one in place of an earlier one.

        Raises LostError.
        """
        earlier = self._of.get(session)
        if earlier is not None and earlier.target == target:
            return earlier
        await self.forget(session)
        listener = make()
        await self._ports.listen(listener.listen, wanted_port, session)
        self._of[session] = listener
        return listener

    async def forget(self, session: SessionId) -> None:
        """Closes the session's listener. Safe to repeat."""
        if (listener := self._of.pop(session, None)) is not None:
            await listener.close()

    async def close(self) -> None:
        """Closes every one."""
        for session in list(self._of):
            await self.forget(session)
