"""Which port of our side leads to a server: one of a range, in turn. Leads nowhere itself."""

from __future__ import annotations

import errno
from collections.abc import Awaitable, Callable, Iterator

from services.tunneler.ports import LostError

BACKLOG = 1024


class PortRange:
    """The ports of one address that tunnels may listen on; `(0, 0)` is any free one."""

    def __init__(self, host: str, ports: tuple[int, int]) -> None:
        self._host = host
        self._ports = ports
        self._next = ports[0]

    async def listen(self, listen: Callable[[str, int], Awaitable[None]], wanted: int) -> None:
        """Lets `listen` take a free port, `wanted` where it can be had. Raises LostError when all are taken."""
        for port in self._candidates(wanted):
            try:
                await listen(self._host, port)
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise LostError(f"cannot listen on {self._host}:{port}: {error.strerror}") from error
                continue
            return
        raise LostError(f"every port of {self._ports[0]}-{self._ports[1]} is taken; widen tunneler.ports")

    def _candidates(self, wanted: int) -> Iterator[int]:
        low, high = self._ports
        if wanted and (low == 0 or low <= wanted <= high):
            yield wanted
        if low == 0:
            yield 0
            return
        for _ in range(high - low + 1):
            port = self._next
            self._next = low if port >= high else port + 1
            yield port
