"""The batch system of an emulated site: who gets which nodes, and who waits in which place. Runs nothing itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec

from emulators.unicore_site.configuration import SiteConfiguration

Moved = Callable[[int], None]


class Allocation(msgspec.Struct, frozen=True):
    """The nodes a job has, by address; `slots` is how many nodes it counts for in its queue."""

    queue: str
    slots: int
    nodes: tuple[str, ...]


class _Waiting:
    def __init__(self, queue: str, slots: int, moved: Moved) -> None:
        self.queue = queue
        self.slots = slots
        self.moved = moved
        self.place = 0
        self.granted: asyncio.Future[Allocation] = asyncio.get_running_loop().create_future()


class BatchSystem:
    """First come, first served within a queue; a full queue holds up no other.

    A job of more nodes than the site has addresses gets them all: the site is emulated, its size need not be.
    """

    def __init__(self, configuration: SiteConfiguration) -> None:
        self._configuration = configuration
        self._load = dict.fromkeys(configuration.compute_nodes, 0)
        self._in_use = dict.fromkeys(configuration.queues, 0)
        self._waiting: list[_Waiting] = []

    async def allocate(self, queue: str, slots: int, moved: Moved) -> Allocation:
        """Waits for nodes; `moved` hears each new place in the queue, counted from 1."""
        waiting = _Waiting(queue, slots, moved)
        self._waiting.append(waiting)
        self._schedule()
        try:
            return await waiting.granted
        except asyncio.CancelledError:
            if waiting in self._waiting:
                self._waiting.remove(waiting)
                self._schedule()
            elif not waiting.granted.cancelled():
                self.release(waiting.granted.result())
            raise

    def release(self, allocation: Allocation) -> None:
        """Takes the nodes back."""
        self._in_use[allocation.queue] -= allocation.slots
        for node in allocation.nodes:
            self._load[node] -= 1
        self._schedule()

    def _schedule(self) -> None:
        blocked: set[str] = set()
        for waiting in list(self._waiting):
            if waiting.granted.done() or waiting.queue in blocked:
                continue
            nodes = self._free(waiting)
            if nodes is None:
                blocked.add(waiting.queue)
                continue
            self._waiting.remove(waiting)
            self._in_use[waiting.queue] += waiting.slots
            for node in nodes:
                self._load[node] += 1
            waiting.granted.set_result(Allocation(waiting.queue, waiting.slots, nodes))
        places = dict.fromkeys(self._in_use, 0)
        for waiting in self._waiting:
            places[waiting.queue] += 1
            if waiting.place != places[waiting.queue]:
                waiting.place = places[waiting.queue]
                waiting.moved(waiting.place)

    def _free(self, waiting: _Waiting) -> tuple[str, ...] | None:
        limit = self._configuration.queues[waiting.queue].nodes_at_once
        if limit is not None and self._in_use[waiting.queue] + waiting.slots > limit:
            return None
        wanted = min(waiting.slots, len(self._load))
        with_room = [node for node, load in self._load.items() if load < self._configuration.jobs_per_node]
        if len(with_room) < wanted:
            return None
        return tuple(sorted(with_room, key=lambda node: self._load[node])[:wanted])
