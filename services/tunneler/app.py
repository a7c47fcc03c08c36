"""Builds the tunneler: the only place that constructs its parts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from datetime import datetime
from typing import Any

import structlog
from aiohttp import web

from schemas.base import SessionId, SystemName
from schemas.lifecycle import Ended, SessionState, WithTunnel
from schemas.secrets import ServerProof
from schemas.session import HpcPlace, SessionEvent, StartRequested, TunnelReady
from schemas.subjects import Subjects
from services._runtime.clouds import CatalogueEntry, CloudSystem, PortForwardReach
from services._runtime.connection import Broker
from services._runtime.errors import PermanentError, TransientError
from services._runtime.identity import Stamp
from services._runtime.leases import Lease
from services._runtime.log import Bucket, Log, Recorded
from services._runtime.service import stamp_of, utc_now, vault_of
from services._runtime.session_service import SessionService
from services._runtime.settings import Configuration
from services._runtime.systems import SshReach, UnicoreReach, UnicoreSite
from services._runtime.tasks import end
from services._runtime.vault import Vault
from services.tunneler.decide import CONSUMES, CloseTunnel, Command, OpenTunnel, decide, give_up
from services.tunneler.listening import PortRange, PromisedPorts
from services.tunneler.port_forward import DirectWays, SshWays
from services.tunneler.ports import Address, LostError, Prove, Target, Way, Ways, WrongServerError
from services.tunneler.proof import prove
from services.tunneler.settings import TunnelerSettings, tunneler_settings
from services.tunneler.stream_forward import StreamWays
from services.tunneler.targets import RefusedTargetError, check_target
from services.tunneler.unicore_forward import UnicoreSide
from services.tunneler.upkeep import REPLICA_LEASES, Upkeep

_log = structlog.get_logger("farlab.tunneler")

PROOF_PAUSES_SECONDS = (0.02, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6)
"""A server that says it listens is there within moments; what takes longer is tried again as a new delivery."""


def build(configuration: Configuration, broker: Broker) -> TunnelerApp:
    """The service, from its configuration and an open broker. Raises ConfigurationError."""
    settings, promised = tunneler_settings(configuration), PromisedPorts()
    ports = PortRange(settings.bind_host, settings.ports, promised)
    return TunnelerApp(
        log=broker.log,
        leases=broker.leases,
        vault=vault_of(configuration, broker, "tunneler"),
        subjects=configuration.subjects,
        stamp=stamp_of(configuration, "tunneler"),
        systems=configuration.catalogue,
        ways={name: _ways(system, ports) for name, system in configuration.catalogue.items()},
        prove=prove,
        settings=settings,
        now=utc_now,
        promised=promised,
    )


def _ways(system: CatalogueEntry, ports: PortRange) -> Ways:
    if isinstance(system.reach, SshReach):
        return SshWays(system.reach, ports)
    if isinstance(system, CloudSystem) and isinstance(system.reach, PortForwardReach):
        # the Kubernetes client takes 20 MB and a second to load: only where a cloud is reached so
        from services._runtime.api_server import api_of
        from services.tunneler.pod_forward import ApiServerSide

        return StreamWays(ApiServerSide(api_of(system.title, system.site)), ports)
    if isinstance(system.reach, UnicoreReach) and isinstance(system.site, UnicoreSite):
        return StreamWays(UnicoreSide(system.site), ports)
    return DirectWays()


def _target(of: OpenTunnel | WithTunnel) -> Target:
    """Where a session's server listens, and what the ways of some systems lead by."""
    server, place = of.server, of.request.place
    if not isinstance(place, HpcPlace):
        return Target(server.host, server.port)
    identity = of.admission.site_identity or place.account
    return Target(server.host, server.port, of.job, identity, place.account, place.project)


class TunnelerApp:
    """One replica of the tunneler."""

    def __init__(
        self,
        *,
        log: Log,
        leases: Bucket,
        vault: Vault,
        subjects: Subjects,
        stamp: Stamp,
        systems: Mapping[SystemName, CatalogueEntry],
        ways: Mapping[SystemName, Ways],
        prove: Prove,
        settings: TunnelerSettings,
        now: Callable[[], datetime],
        promised: PromisedPorts | None = None,
    ) -> None:
        """`promised` is what the `ways` heed as well."""
        self._promised = promised or PromisedPorts()
        self._vault = vault
        self._systems = systems
        self._ways = ways
        self._prove = prove
        self._settings = settings
        self._now = now
        self._named = False
        self._open: dict[SessionId, Way] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._replica_lease = Lease(leases, f"{REPLICA_LEASES}{settings.replica}", settings.replica)
        self._hub_leases = {
            name: Lease(leases, f"tunneler.remote-forward.{name}", settings.replica) for name in systems
        }
        self.sessions: SessionService[Command] = SessionService(
            service="tunneler",
            log=log,
            subjects=subjects,
            stamp=stamp,
            decide=decide,
            perform=self.perform,
            give_up=give_up,
            consumes=CONSUMES,
            systems=list(systems),
        )
        self._upkeep = Upkeep(
            sessions=self.sessions,
            leases=leases,
            ways=ways,
            replica=settings.replica,
            check=self.check,
            settings=settings,
        )

    async def start(self) -> None:
        """Takes its name, connects to login nodes, restores its own tunnels from the log, then takes sessions."""
        self._named = await self._replica_lease.acquire()
        for ways in self._ways.values():
            await ways.start()
        self.sessions.view.watch(self._on_event)
        await self.sessions.start()
        for session, placed in self.sessions.view.live():
            if isinstance(placed.state, WithTunnel) and placed.state.tunnel.replica == self._settings.replica:
                self._spawn(self._restore(session, placed.state.request, placed.state))
        self._spawn(self._replica_lease.keep(self._name_lease_changed))
        for name, lease in self._hub_leases.items():
            self._spawn(self._keep_hub_lease(name, lease))
        self._spawn(self._upkeep.run())

    async def close(self) -> None:
        """Finishes what is in hand, gives up its leases and closes every way."""
        await self.sessions.close()
        await end(self._tasks)
        for lease in (*self._hub_leases.values(), self._replica_lease):
            await lease.release()
        for ways in self._ways.values():
            await ways.close()

    def problems(self) -> Sequence[str]:
        """Whether another tunneler goes by its name. A system out of reach is no reason to be out of service."""
        return [] if self._named else [f"another tunneler is named {self._settings.replica}; set tunneler.replica"]

    def _name_lease_changed(self, held: bool) -> None:
        self._named = held

    def routes(self) -> Sequence[web.RouteDef]:
        """None of its own."""
        return []

    async def perform(self, command: Command) -> Sequence[SessionEvent]:
        """Carries out a command; the facts that came of it."""
        match command:
            case OpenTunnel():
                return [await self._open_tunnel(command)]
            case CloseTunnel(request=request):
                await self._forget(request)
                return []

    async def check(self, session: SessionId, state: SessionState) -> None:
        """Proves the data path of a tunnel of ours, twice before it is believed broken. Raises LostError."""
        if not isinstance(state, WithTunnel):
            return
        way = self._open.get(session)
        if way is None:
            raise LostError("the tunneler has no way to this server")
        if (way.address.host, way.address.port) != (state.tunnel.host, state.tunnel.port):
            raise LostError("the way to this server is at another address than the hub was told")
        proof = await self._proof_of(session)
        try:
            await self._prove(way.address, state.request.base_url, proof)
        except (LostError, WrongServerError):
            await asyncio.sleep(0.2)
            try:
                await self._prove(way.address, state.request.base_url, proof)
            except WrongServerError as error:
                raise LostError(str(error)) from error

    async def _open_tunnel(self, command: OpenTunnel) -> TunnelReady:
        request, server = command.request, command.server
        reach = self._systems[request.system].reach
        try:
            check_target(server.host, server.port, networks=reach.networks, ports=reach.ports, hosts=reach.hosts)
        except RefusedTargetError as error:
            raise PermanentError(
                "target-refused",
                f"The address the server announced is refused: {error}.",
                "An operator should compare it with the system's networks, hosts and ports.",
            ) from error
        proof = await self._proof_of(request.session)
        try:
            way = await self._way(request, _target(command), self._promised_port(request.session))
            await self._prove_soon(way, request, proof)
        except (LostError, WrongServerError) as error:
            self._bound(command, error)
            raise TransientError(str(error), delay_seconds=1.0) from error
        return TunnelReady(
            hub=request.hub,
            system=request.system,
            session=request.session,
            host=way.address.host,
            port=way.address.port,
            generation=command.generation,
            replica=self._settings.replica,
            via=way.via,
        )

    def _bound(self, command: OpenTunnel, error: Exception) -> None:
        """A start whose server never answers fails; one whose user was in is rebuilt for as long as its job lives."""
        waited_seconds = (self._now() - command.server.at).total_seconds()
        if not command.for_user and waited_seconds > self._settings.unreachable_seconds:
            raise PermanentError(
                "server-unreachable",
                f"The server said that it listens, but it could not be reached for {waited_seconds:.0f} s: {error}.",
                "Start it again; if that does not help, tell your support.",
            ) from error

    async def _prove_soon(self, way: Way, request: StartRequested, proof: ServerProof) -> None:
        for pause in PROOF_PAUSES_SECONDS:
            try:
                await self._prove(way.address, request.base_url, proof)
            except (LostError, WrongServerError):
                await asyncio.sleep(pause)
            else:
                return
        await self._prove(way.address, request.base_url, proof)

    async def _restore(self, session: SessionId, request: StartRequested, state: SessionState) -> None:
        """Opens a tunnel of an earlier life again; the log hears of it only when its port is another."""
        if not isinstance(state, WithTunnel):
            return
        try:
            way = await self._way(request, _target(state), state.tunnel.port)
        except LostError as error:
            _log.warning("tunnel not restored", session=session, reason=str(error))
            return
        if way.address.port != state.tunnel.port:
            moved = TunnelReady(
                hub=request.hub,
                system=request.system,
                session=session,
                host=way.address.host,
                port=way.address.port,
                generation=state.tunnel.generation + 1,
                replica=self._settings.replica,
                via=way.via,
            )
            await self.sessions.consumer.record(moved)

    async def _way(self, request: StartRequested, target: Target, wanted_port: int) -> Way:
        """Opens a way. Raises LostError, also where the session ended or went to another replica meanwhile."""
        way = await self._ways[request.system].open(request.session, target, wanted_port)
        self._open[request.session] = way
        placed = self.sessions.view.get(request.session)
        if placed is not None and self._is_over_here(placed.state):
            await self._forget(request)
            raise LostError("the session needs no way of this tunneler any more")
        return way

    def _promised_port(self, session: SessionId) -> int:
        """Where hub and proxy send the session's user now, though another tunneler led there: best left so."""
        return self._promised.port_of(session, self._settings.bind_host)

    async def _proof_of(self, session: SessionId) -> ServerProof:
        return await self._vault.open(session, ServerProof)  # type: ignore[arg-type]

    async def _forget(self, request: StartRequested) -> None:
        self._open.pop(request.session, None)
        await self._ways[request.system].forget(request.session)

    def _on_event(self, recorded: Recorded, before: SessionState, after: SessionState) -> None:
        """Every replica closes its way when a session ends or moves to another replica."""
        del before
        event = recorded.message
        if isinstance(event, TunnelReady) and isinstance(after, WithTunnel):
            self._promised.told(event.session, Address(after.tunnel.host, after.tunnel.port))
        elif isinstance(after, Ended):
            self._promised.over(after.request.session)
        if isinstance(after, Ended | WithTunnel) and after.request.session in self._open and self._is_over_here(after):
            self._spawn(self._forget(after.request))

    def _is_over_here(self, state: SessionState) -> bool:
        """Whether the session ended, or another replica leads to its server."""
        if isinstance(state, WithTunnel):
            return state.tunnel.replica != self._settings.replica
        return isinstance(state, Ended)

    async def _keep_hub_lease(self, name: SystemName, lease: Lease) -> None:
        def changed(held: bool) -> None:
            self._spawn(self._ways[name].lead_to_hub(held))

        await lease.keep(changed)

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("a task of the tunneler failed", exc_info=error)
