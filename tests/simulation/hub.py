"""A hub on the real bridge, with JupyterHub around it reduced to what matters to sessions.

The spawner below does what `services.hub_bridge.spawner` does, without JupyterHub: its database is `World.servers`,
which survives the hub, and its proxy is `World.routes`. Omits tokens, forms, pages and the checks of a user's choice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from schemas.base import SessionId
from schemas.lifecycle import Ended, NotStarted, Ready
from schemas.session import HpcPlace, Resources, StartRequested, StopRequested, TunnelReady
from services._runtime.errors import PermanentError, TransientError
from services._runtime.rpc import MemoryRpc
from services._runtime.settings import Configuration
from services._runtime.vault import Vault
from services.hub_bridge.arrival import arrive
from services.hub_bridge.bridge import Bridge
from services.hub_bridge.errors import NotAnsweringError, StartError
from services.hub_bridge.secrets import HubSecrets, seal
from services.hub_bridge.sessions import ENDING
from services.tunneler.ports import Address
from tests.simulation.broker import SimBucket, SimLog
from tests.simulation.process import Process

AFTER_DEADLINE_SECONDS = 60.0
Server = tuple[str, str]


@dataclass
class Record:
    """What JupyterHub's database keeps of a server."""

    session: SessionId | None = None
    reached: bool = False


class SimBroker:
    """See `bridge.Broker`."""

    def __init__(self, process: Process) -> None:
        self.log = SimLog(process)
        self.vault = SimBucket(process, "vault")
        self.access = SimBucket(process, "access")
        self.activity = SimBucket(process, "activity")
        self.rpc = MemoryRpc()

    async def close(self) -> None:
        return


class Hub:
    """One life of the hub."""

    def __init__(
        self, process: Process, configuration: Configuration, open_vault: Callable[[Any, Path, str], Vault]
    ) -> None:
        self.process = process
        self.world = process.world
        self.spawners: dict[Server, Spawner] = {}
        self.up = False
        self._configuration = configuration
        self._open_vault = open_vault

    async def start(self) -> None:
        async def connect(_configuration: Configuration, _service: str) -> SimBroker:
            return SimBroker(self.process)

        self.bridge = Bridge(self._configuration, connect, self._open_vault, lambda: self.world.clock(self.process))
        for server, record in self.world.servers.items():
            if record.session is not None and record.reached:
                spawner = self.spawner(server)
                spawner.session, spawner.reached = record.session, True
                self.bridge.attach(record.session, spawner)
                self.bridge.begin(spawner.find_again())
        self.up = True
        self.bridge.begin(self._take_up())

    async def _take_up(self) -> None:
        await self.bridge.opened()
        for server, record in self.world.servers.items():
            half_started = record.session is not None and not record.reached and server not in self.spawners
            if half_started and self.bridge.sessions.live(*server) is None:
                self.world.servers[server] = Record()
        async for request in self.bridge.unheld():
            server = (request.user, request.server_name)
            spawner = self.spawner(server)
            if spawner.starting is None and not spawner.stopping and not spawner.reached:
                self.press_start(server)
            elif spawner.session != request.session:
                self.bridge.begin(self.bridge.withdraw(request, "started again"))

    def spawner(self, server: Server) -> Spawner:
        if server not in self.spawners:
            self.spawners[server] = Spawner(self, server)
        return self.spawners[server]

    def press_start(self, server: Server) -> None:
        spawner = self.spawner(server)
        if spawner.starting is None and not spawner.stopping and not spawner.reached:
            spawner.starting = self.bridge.task(spawner.spawn())

    def press_stop(self, server: Server) -> None:
        spawner = self.spawner(server)
        if not spawner.stopping:
            self.bridge.begin(spawner.end())

    async def close(self) -> None:
        self.up = False
        await self.bridge.close()


class Spawner:
    """One server of one user."""

    def __init__(self, hub: Hub, server: Server) -> None:
        self.hub, self.world, self.bridge, self.server = hub, hub.world, hub.bridge, server
        self.session: SessionId | None = None
        self.reached = False
        self.stopping = False
        self.starting: asyncio.Task[None] | None = None
        self._requesting: asyncio.Task[None] | None = None

    async def spawn(self) -> None:
        """JupyterHub's part of a start: a failed one is followed by a stop."""
        try:
            tunnel = await self._start()
        except (StartError, asyncio.CancelledError) as error:
            self.world.say("hub", f"start of {self.server} failed: {error}")
            self.starting = None
            if isinstance(error, StartError):
                await self.end()
            return
        self.starting = None
        self.reached = True
        self._save()
        self.world.route(self.server, self.session, tunnel)

    async def end(self) -> None:
        """JupyterHub's part of a stop."""
        if self.stopping:
            return
        self.stopping = True
        try:
            if self.starting is not None:
                self.starting.cancel()
                await asyncio.wait([self.starting])
            await self._stop()
            self._clear()
        finally:
            self.stopping = False

    def _clear(self) -> None:
        if self.session is not None:
            self.bridge.detach(self.session)
        self.session, self.reached, self._requesting = None, False, None
        self.world.servers[self.server] = Record()
        self.world.route(self.server, None, None)

    def _save(self) -> None:
        self.world.servers[self.server] = Record(self.session, self.reached)

    # --- the spawner's own -----------------------------------------------------------------------------------------

    async def _start(self) -> TunnelReady:
        try:
            await self.bridge.opened(self.bridge.settings.broker_seconds)
            session = await self._live_session() or await self._new_session()
            async with asyncio.timeout(self.bridge.seconds_left(session) + AFTER_DEADLINE_SECONDS):
                return await arrive(self.bridge.sessions, session, self._answers)
        except TransientError as error:
            raise StartError(error.reason, reason="log") from None
        except TimeoutError:
            raise StartError("too late", reason="late") from None

    async def _live_session(self) -> SessionId | None:
        bridge = self.bridge
        while (session := bridge.sessions.live(*self.server)) is not None:
            if not isinstance(bridge.sessions.state(session), ENDING):
                self.session = session
                try:
                    await bridge.vault.open(session, HubSecrets)
                except PermanentError:
                    await self._ask_to_stop(session)
                else:
                    bridge.attach(session, self)
                    self._save()
                    return session
            await bridge.sessions.wait_for(session, lambda state: isinstance(state, Ended))
            self.session = None
        return None

    async def _new_session(self) -> SessionId:
        request = self._request()
        self.bridge.attach(request.session, self)
        self.session = request.session
        self._requesting = self.bridge.task(self._ask_to_start(request))
        await asyncio.shield(self._requesting)
        return request.session

    def _request(self) -> StartRequested:
        user, name = self.server
        return StartRequested(
            hub=self.bridge.hub,
            system=self.world.system.name,
            session=self.world.new_session(),
            user=user,  # type: ignore[arg-type]
            server_name=name,
            place=HpcPlace(account=f"{user}1", project="ztrain", partition="batch"),
            resources=Resources(runtime_seconds=3600),
            base_url=f"/user/{user}/{name}/",
            deadline=self.bridge.now() + timedelta(seconds=self.world.deadline_seconds),
        )

    async def _ask_to_start(self, request: StartRequested) -> None:
        bridge = self.bridge
        try:
            await seal(bridge.vault, request.session, bridge.hub, {"JUPYTERHUB_API_TOKEN": "t"}, None)
            self._save()
            asked = await bridge.sessions.record(request)
        except TransientError:
            asked = not isinstance(bridge.sessions.state(request.session), NotStarted)
        if not asked:
            self.session = None
            bridge.disown(request)
            raise TransientError("the start could not be asked for")

    async def _answers(self, tunnel: TunnelReady) -> None:
        for _ in range(10):
            if self.world.tunnels.leads_to(Address(tunnel.host, tunnel.port)) is not None:
                return
            await asyncio.sleep(1.0)
        raise NotAnsweringError(10.0)

    async def _stop(self) -> None:
        if self._requesting is not None:
            await asyncio.gather(self._requesting, return_exceptions=True)
        session = self.session
        if session is None:
            return
        await self.bridge.opened()
        await self._ask_to_stop(session)
        await self.bridge.sessions.wait_for(session, lambda state: isinstance(state, NotStarted | Ended))

    async def _ask_to_stop(self, session: SessionId) -> None:
        while not isinstance(state := self.bridge.sessions.state(session), NotStarted | Ended | ENDING):
            stop = StopRequested(
                hub=self.bridge.hub, system=state.request.system, session=session, by=self.server[0], reason="enough"
            )
            try:
                await self.bridge.sessions.record(stop)
            except TransientError:
                await asyncio.sleep(1)

    async def find_again(self) -> None:
        """After a restart of the hub: where the server is now."""
        await self.bridge.opened()
        session = self.session
        assert session is not None
        while True:
            try:
                tunnel = await arrive(self.bridge.sessions, session, self._answers)
                self.world.route(self.server, session, tunnel)
            except NotAnsweringError:
                continue
            except StartError:
                await self.ended()
            return

    async def moved(self, tunnel: TunnelReady) -> None:
        if self.reached:
            self.world.route(self.server, self.session, tunnel)

    async def ended(self) -> None:
        if self.reached and self.session is not None and not self.stopping:
            state = self.bridge.sessions.state(self.session)
            if isinstance(state, Ended | NotStarted):
                self._clear()


def is_ready(hub: Hub, session: SessionId) -> bool:
    """Whether the hub holds the session as ready."""
    return isinstance(hub.bridge.sessions.state(session), Ready)
