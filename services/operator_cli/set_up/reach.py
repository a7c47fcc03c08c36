"""`farlab config check --reach`: asks everything an installation stands on whether it is there. Changes nothing."""

from __future__ import annotations

import asyncio
import secrets
import warnings
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path

import msgspec

from services._runtime import topology
from services._runtime.clouds import CloudSystem
from services._runtime.configuration import ConfigurationError
from services._runtime.connection import connect
from services._runtime.errors import PermanentError, TransientError
from services._runtime.openid import SignInSettings
from services._runtime.openid_provider import OpenIdProvider, ProviderAwayError
from services._runtime.service import utc_now
from services._runtime.settings import Configuration
from services._runtime.systems import SshReach, System
from services._runtime.vault import RECIPIENTS, KeyFileError, read_secret_file
from services.accounts.ports import SignInOverError
from services.operator_cli.nats_config import SERVICES
from services.operator_cli.output import one_line

PATIENCE_SECONDS = 5.0
TROUBLE = (ConfigurationError, KeyFileError, TransientError, PermanentError, OSError, TimeoutError)


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """What one question was answered; `problem` is empty where all is well, else in words with the remedy."""

    asked: str
    problem: str = ""


async def findings(configuration: Configuration) -> list[Finding]:
    """Everything that can be asked, asked at once; in a stable order. Raises nothing."""
    questions: list[tuple[str, Callable[[], Awaitable[None]]]] = [
        (f"keys of {service}", _keys(configuration, service)) for service in _services(configuration)
    ]
    questions += [(f"NATS as {service}", _broker(configuration, service)) for service in _services(configuration)]
    questions.append(("streams and buckets", _topology(configuration)))
    for name, system in configuration.systems.items():
        questions.append((f"site of {name}", _site(system)))
        if isinstance(system.reach, SshReach):
            questions.append((f"SSH files of {name}", _ssh_files(system.reach)))
            questions += [(f"login node {node} of {name}", _port(node)) for node in system.reach.login_nodes]
    if configuration.shared.sign_in is not None:
        questions.append(("identity provider", _provider(configuration, configuration.shared.sign_in)))
    for name, cloud in configuration.clouds.items():
        questions.append((f"cluster of {name}", _cluster(cloud)))
    return list(await asyncio.gather(*[_found(asked, ask) for asked, ask in questions]))


async def _found(asked: str, ask: Callable[[], Awaitable[None]]) -> Finding:
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            await ask()
    except TimeoutError:
        return Finding(asked=asked, problem=f"no answer within {PATIENCE_SECONDS:.0f} s; is it running, and reachable?")
    except TROUBLE as error:
        return Finding(asked=asked, problem=one_line(str(error) or type(error).__name__))
    return Finding(asked=asked)


def _services(configuration: Configuration) -> Iterable[str]:
    unused = {"hpc-launcher": not configuration.systems, "cloud-launcher": not configuration.clouds}
    return [service for service in SERVICES if not unused.get(service)]


def _keys(configuration: Configuration, service: str) -> Callable[[], Awaitable[None]]:
    async def ask() -> None:
        files = [f"{service}.ids", *([f"{service}.seal.json"] if service in RECIPIENTS else [])]
        for file in files:
            read_secret_file(configuration.keys_folder / file)

    return ask


def _impatient(configuration: Configuration) -> Configuration:
    nats = msgspec.structs.replace(configuration.shared.nats, connect_seconds=PATIENCE_SECONDS - 1)
    return msgspec.structs.replace(configuration, shared=msgspec.structs.replace(configuration.shared, nats=nats))


def _broker(configuration: Configuration, service: str) -> Callable[[], Awaitable[None]]:
    async def ask() -> None:
        broker = await connect(_impatient(configuration), service)
        await broker.close()

    return ask


def _topology(configuration: Configuration) -> Callable[[], Awaitable[None]]:
    async def ask() -> None:
        broker = await connect(_impatient(configuration), "operator-cli")
        try:
            found = await topology.compare(broker.log.js, configuration.subjects, configuration.shared.retention)
        finally:
            await broker.close()
        if found:
            words = ", ".join(f"{each.stream}.{each.setting} is {each.found}, not {each.wanted}" for each in found)
            raise ConfigurationError(f"{words}; apply the difference with `farlab streams apply`")

    return ask


def _provider(configuration: Configuration, settings: SignInSettings) -> Callable[[], Awaitable[None]]:
    async def ask() -> None:
        with warnings.catch_warnings():  # its library tells every user of the command what its own authors should mend
            warnings.simplefilter("ignore")
            from services.accounts.identity_provider import OpenIdConnect
        folder = configuration.file.parent
        await OpenIdProvider(settings, folder).check()
        try:
            # A token that nobody has: a provider that knows the client and its secret refuses the token, and no more.
            await OpenIdConnect(settings, folder, utc_now).refresh(secrets.token_urlsafe(32))
        except SignInOverError:
            return
        except ProviderAwayError as error:
            raise ConfigurationError(
                f"{error}; is sign_in.client_id = {settings.client_id} registered there, with the secret in "
                "client_secret_file and the grant refresh_token?"
            ) from None
        raise ConfigurationError("the identity provider honours a token that nobody has; ask who runs it")

    return ask


def _site(system: System) -> Callable[[], Awaitable[None]]:
    async def ask() -> None:
        from services.hpc_launcher.app import site_of  # this and what follows load their clients, which takes seconds

        site = site_of(system)
        try:
            await site.certificate(fresh=True)
        finally:
            await site.close()

    return ask


def _cluster(cloud: CloudSystem) -> Callable[[], Awaitable[None]]:
    async def ask() -> None:
        from services.cloud_launcher.app import cluster_of
        from services.cloud_launcher.settings import check_pod

        await asyncio.to_thread(check_pod, cloud, f"{cloud.name}.toml")
        cluster = cluster_of(cloud, "farlab-check")
        try:
            if not cloud.site.many_namespaces:
                await cluster.quota(cloud.site.namespace)
        finally:
            await cluster.close()

    return ask


def _ssh_files(reach: SshReach) -> Callable[[], Awaitable[None]]:
    async def ask() -> None:
        from services.tunneler.ssh import read_client_key, read_known_hosts

        read_client_key(Path(reach.key_file))
        read_known_hosts(Path(reach.known_hosts_file))

    return ask


def _port(node: str) -> Callable[[], Awaitable[None]]:
    async def ask() -> None:
        host, _, port = node.rpartition(":")
        try:
            _, writer = await asyncio.open_connection(host, int(port))
        except OSError as error:
            raise TransientError(f"{error.strerror or error}; is SSH running there, and no firewall between?") from None
        writer.close()

    return ask
