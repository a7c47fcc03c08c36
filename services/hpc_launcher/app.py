"""The launcher, put together: the one place that constructs its parts. Judges nothing itself."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import partial
from pathlib import Path
from time import monotonic

import structlog
from aiohttp import web

from schemas.base import SessionId, SystemName
from schemas.subjects import Subjects
from services._launching.waiting import WaitingStarts
from services._runtime.configuration import ConfigurationError
from services._runtime.connection import Broker
from services._runtime.delegation import Delegation
from services._runtime.identity import Stamp
from services._runtime.leases import Lease
from services._runtime.log import Bucket, Log
from services._runtime.service import stamp_of, vault_of
from services._runtime.session_service import SessionService
from services._runtime.settings import Configuration
from services._runtime.systems import SlurmSite, System
from services._runtime.tasks import end
from services._runtime.vault import Vault
from services.hpc_launcher.act import Actor
from services.hpc_launcher.chronicle import Chronicle
from services.hpc_launcher.decide import CONSUMES, Command, decide, give_up, obey
from services.hpc_launcher.notifications import PATH, Notifications
from services.hpc_launcher.observe import Observer
from services.hpc_launcher.poller import Poller
from services.hpc_launcher.ports import Site
from services.hpc_launcher.reconciler import Reconciler
from services.hpc_launcher.settings import HpcLauncherSettings, launcher_settings, replica_name, served
from services.hpc_launcher.slurm import SlurmSiteAdapter
from services.hpc_launcher.slurm_rest import SlurmRestCalls
from services.hpc_launcher.slurm_shell import SlurmShell
from services.hpc_launcher.slurmrestd import Slurmrestd
from services.hpc_launcher.unicore import UnicoreSiteAdapter
from services.hpc_launcher.unicore_client import UnicoreClient
from services.hpc_launcher.user_tokens import AccountsTokens, OwnToken

_log = structlog.get_logger("farlab.hpc_launcher")

SERVICE = "hpc-launcher"


def build(configuration: Configuration, broker: Broker) -> LauncherApp:
    """The service, from its configuration and an open broker. Raises ConfigurationError and KeyFileError."""
    settings = launcher_settings(configuration)
    systems = served(configuration, settings)
    vault = vault_of(configuration, broker, SERVICE)
    tokens = AccountsTokens(rpc=broker.rpc, subjects=configuration.subjects, vault=vault, service=SERVICE)
    return LauncherApp(
        installation=configuration.shared.installation.prefix,
        log=broker.log,
        leases=broker.leases,
        vault=vault,
        subjects=configuration.subjects,
        stamp=stamp_of(configuration, SERVICE),
        systems=systems,
        sites={name: site_of(system, tokens.for_audience) for name, system in systems.items()},
        settings=settings,
    )


def site_of(system: System, tokens: Callable[[str], OwnToken] | None = None) -> Site:
    """The port to a system's site; without `tokens` (by audience) it makes no job by a user's own word.

    Raises ConfigurationError and KeyFileError.
    """
    site = system.site
    if isinstance(site, SlurmSite):
        shell = SlurmShell(system.title, site)
        if site.rest is None:
            return SlurmSiteAdapter(site, shell)
        return SlurmSiteAdapter(site, SlurmRestCalls(system.title, shell, Slurmrestd(system.title, site, site.rest)))
    verify: ssl.SSLContext | bool = True
    if site.ca_file:
        try:
            verify = ssl.create_default_context(cafile=site.ca_file)
        except (OSError, ssl.SSLError) as error:
            raise ConfigurationError(f"{site.ca_file}: not a file of CA certificates: {error}") from None
    client = UnicoreClient(
        title=system.title,
        url=site.url,
        credentials=Delegation(site.issuer_dn, Path(site.delegation_key_file)),
        verify=verify,
        requests_per_second=site.requests_per_second,
        concurrent_requests=site.concurrent_requests,
        timeout_seconds=site.timeout_seconds,
    )
    if tokens is not None and site.credentials == "user-token":
        return UnicoreSiteAdapter(client, tokens(site.audience))
    return UnicoreSiteAdapter(client)


class LauncherApp:
    """The jobs of sessions on HPC systems. The stamp's clock is that of facts, `clock` that of intervals."""

    def __init__(
        self,
        *,
        installation: str,
        log: Log,
        leases: Bucket,
        vault: Vault,
        subjects: Subjects,
        stamp: Stamp,
        systems: Mapping[SystemName, System],
        sites: Mapping[SystemName, Site],
        settings: HpcLauncherSettings,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._sites = sites
        self._settings = settings
        self._now = stamp.now
        self._background: set[asyncio.Task[None]] = set()
        self._waiting = WaitingStarts(lambda event: self.sessions.consumer.record(event), stamp.now, "site")
        chronicle = Chronicle()
        actor = Actor(
            installation=installation,
            systems=systems,
            sites=sites,
            vault=vault,
            chronicle=chronicle,
            now=self._now,
            waiting=self._waiting,
        )
        self.sessions: SessionService[Command] = SessionService(
            service=SERVICE,
            log=log,
            subjects=subjects,
            stamp=stamp,
            decide=decide,
            perform=actor.perform,
            give_up=give_up,
            obey=obey,
            consumes=CONSUMES,
            systems=list(systems),
        )
        # The view tells its watches of the whole history, so they have to be there before it follows.
        self.sessions.view.watch(chronicle.observe)
        self.pollers: dict[SystemName, Poller] = {}
        self.reconcilers: dict[SystemName, Reconciler] = {}
        self._leases: dict[SystemName, Lease] = {}
        for name, system in systems.items():
            observer = Observer(
                system=system,
                site=sites[name],
                chronicle=chronicle,
                record=self.sessions.consumer.record,
                now=self._now,
                clock=clock,
            )
            poller = Poller(system=system, view=self.sessions.view, observer=observer, clock=clock)
            self.sessions.view.watch(poller.observe)
            self.pollers[name] = poller
            self._leases[name] = Lease(leases, f"{SERVICE}.{name}.poller", replica_name(settings))
            reconciler = Reconciler(
                installation=installation,
                system=system,
                site=sites[name],
                log=log,
                subjects=subjects,
                view=self.sessions.view,
                nudge=self.sessions.consumer.nudge,
                owners_per_round=settings.owners_per_round,
                now=self._now,
                clock=clock,
            )
            self.sessions.view.watch(reconciler.observe)
            self.reconcilers[name] = reconciler
        self.notifications = Notifications(sites=sites, view=self.sessions.view, hint=self._hint)

    async def start(self) -> None:
        """Reads the log, takes starts and stops, and follows the jobs of systems whose lease it wins."""
        await self.sessions.start()
        for name, lease in self._leases.items():
            self._run(self.pollers[name].run())
            self._run(self.reconcilers[name].run(self._settings.reconcile_seconds))
            self._run(lease.keep(partial(self._activate, name)))

    async def close(self) -> None:
        """Finishes what is in hand, lets the leases go."""
        await self.sessions.close()
        await end(self._background)
        await self._waiting.close()
        for lease in self._leases.values():
            await lease.release()
        for site in self._sites.values():
            await site.close()

    def problems(self) -> Sequence[str]:
        """Nothing: a site that is down must not take the launcher of the others out of service."""
        return []

    def routes(self) -> Sequence[web.RouteDef]:
        """Where sites post notifications."""
        return [web.post(PATH, self.notifications.take)]

    def _activate(self, name: SystemName, active: bool) -> None:
        self.pollers[name].activate(active)
        self.reconcilers[name].activate(active)

    def _hint(self, system: SystemName, session: SessionId) -> None:
        self.pollers[system].hint(session)

    def _run(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
