"""Ways to servers over a login node, and the proof of who answers there, as the tunneler's ports have them.

Omits SSH itself: the login node is up or down, a listener belongs to one life of one tunneler, and leads to one target.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from schemas.base import SessionId
from schemas.secrets import HmacProof, ServerProof
from services.tunneler.ports import Address, LostError, WrongServerError
from tests.simulation.loop import Life
from tests.simulation.process import Process

if TYPE_CHECKING:
    from tests.simulation.site import Job
    from tests.simulation.world import World


@dataclass(eq=False)
class Listener:
    """A port of the tunnelers' host that leads to a target."""

    session: SessionId
    target: Address
    address: Address
    life: Life
    via: str = "login"

    async def close(self) -> None:
        return


class Tunnels:
    """Every listener there is."""

    def __init__(self, world: World) -> None:
        self.listeners: dict[int, Listener] = {}
        self.login_node_up = True
        self._world = world
        self._ways: list[SimWays] = []

    def listen(self, session: SessionId, target: Address, life: Life, wanted: int) -> Listener:
        port = wanted
        while not port or port in self.listeners:
            port = self._world.random.randrange(32_768, 61_000)
        listener = Listener(session, target, Address("127.0.0.1", port), life)
        self.listeners[port] = listener
        return listener

    def died(self, life: Life) -> None:
        self.listeners = {port: each for port, each in self.listeners.items() if each.life is not life}

    def leads_to(self, address: Address) -> Job | None:
        """Whose server answers at a listener now."""
        listener = self.listeners.get(address.port)
        if listener is None or listener.life.frozen or not self.login_node_up:
            return None
        return self._world.site.serving(listener.target.host, listener.target.port)

    def join(self, ways: SimWays) -> None:
        self._ways.append(ways)

    def login_node(self, up: bool) -> None:
        """The login node goes or comes; every connection over it with it."""
        self.login_node_up = up
        if up:
            for ways in self._ways:
                if not ways.life.dead:
                    self._world.loop.call_soon(ways.came_back.set, context=ways.life.context)


class SimWays:
    """See `ports.Ways`."""

    def __init__(self, process: Process) -> None:
        assert process.life is not None
        self.life = process.life
        self.came_back = asyncio.Event()
        self._tunnels = process.world.tunnels
        self._open: dict[SessionId, Listener] = {}

    async def start(self) -> None:
        self._tunnels.join(self)
        self.came_back.set()

    async def open(self, session: SessionId, target: Address, wanted_port: int) -> Listener:
        earlier = self._open.get(session)
        if earlier is not None and earlier.target == target:
            return earlier
        await self.forget(session)
        self._open[session] = self._tunnels.listen(session, target, self.life, wanted_port)
        return self._open[session]

    async def forget(self, session: SessionId) -> None:
        listener = self._open.pop(session, None)
        if listener is not None and self._tunnels.listeners.get(listener.address.port) is listener:
            del self._tunnels.listeners[listener.address.port]

    async def lead_to_hub(self, serve: bool) -> None:
        return

    async def close(self) -> None:
        for session in list(self._open):
            await self.forget(session)


def prover(process: Process):  # type: ignore[no-untyped-def]
    """See `ports.Prove`: the server that answers is asked for its key."""

    async def prove(address: Address, base_url: str, proof: ServerProof) -> None:
        await asyncio.sleep(process.world.latency("site"))
        job = process.world.tunnels.leads_to(address)
        if job is None:
            raise LostError("nothing answers")
        if not isinstance(proof, HmacProof) or job.proof_key != proof.key:
            raise WrongServerError("something else answers")

    return prove
