"""What a stopped session must not leave behind, looked for where it would be. Removes nothing."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Collection, Iterable, Sequence

import aiohttp
import msgspec

from schemas.base import SessionId
from schemas.lifecycle import Ended, SessionState
from schemas.quota import QuotaUpdated, Released, Reserved
from schemas.session import StartRequested, TunnelReady
from services._runtime.clouds import CloudSystem
from services._runtime.connection import Broker, connect
from services._runtime.errors import PermanentError, TransientError
from services._runtime.log import Recorded
from services._runtime.settings import Configuration
from services._runtime.systems import UnicoreSite
from services._runtime.view import placed
from services.operator_cli.histories import LogHistories

PATIENCE_SECONDS = 20.0
LOOK_SECONDS = 0.1
SITE_SECONDS = 10.0
CONNECT_SECONDS = 2.0

OBJECTS = (
    ("/api/v1", "pods"),
    ("/api/v1", "services"),
    ("/api/v1", "secrets"),
    ("/apis/networking.k8s.io/v1", "networkpolicies"),
)

Place = tuple[str, int]


class Server(msgspec.Struct, frozen=True):
    """A server of JupyterHub, whose sessions are looked for."""

    user: str
    name: str


class Traces(msgspec.Struct, kw_only=True):
    """What the log knows of the sessions looked for, and the tunnels of others, which rightly listen."""

    states: dict[SessionId, SessionState] = msgspec.field(default_factory=dict)
    tunnels: dict[SessionId, set[Place]] = msgspec.field(default_factory=dict)
    in_use: set[Place] = msgspec.field(default_factory=set)


async def left_behind(
    configuration: Configuration, servers: Collection[Server], *, patience_seconds: float = PATIENCE_SECONDS
) -> list[str]:
    """What is still there of the sessions of some servers, one line each.

    Waited for, because clearing up takes its time. Raises TransientError when the broker or a site does not answer.
    """
    broker = await connect(configuration, "operator-cli")
    try:
        deadline = asyncio.get_running_loop().time() + patience_seconds
        while found := await _look(configuration, broker, servers):
            if asyncio.get_running_loop().time() > deadline:
                break
            await asyncio.sleep(LOOK_SECONDS)
        return found
    finally:
        await broker.close()


async def _look(configuration: Configuration, broker: Broker, servers: Collection[Server]) -> list[str]:
    subjects = configuration.subjects
    traced = traces(await LogHistories(broker.log, subjects).all(), servers)
    found = [f"session {session} has not ended" for session, state in traced.states.items() if not _over(state)]
    found += [f"vault entry {key}" for key in await broker.vault.keys() if _mentions(key, traced.states)]
    found += [f"lease {key}" for key in await broker.leases.keys() if _mentions(key, traced.states)]
    quotas = reserved(await broker.log.history("QUOTAS", subjects.family("quota")))
    found += [f"quota {what} of session {session}" for session, what in quotas if session in traced.states]
    for session, places in traced.tunnels.items():
        for host, port in places - traced.in_use:
            if await _listens(host, port):
                found.append(f"listener {host}:{port} of session {session}'s tunnel")
    for name, system in configuration.systems.items():
        if system.emulated is not None and isinstance(system.site, UnicoreSite):
            found += await _jobs(name, system.site, traced.states)
    for name, cloud in configuration.clouds.items():
        if cloud.emulated is not None:
            found += await _objects(name, cloud, traced.states)
    return found


def traces(histories: Iterable[Sequence[Recorded]], servers: Collection[Server]) -> Traces:
    """The traces of the servers' sessions in the log. Pure."""
    traced = Traces()
    for history in histories:
        first = history[0].message
        if not isinstance(first, StartRequested):
            continue
        state = placed(history).state
        tunnels = {(event.host, event.port) for each in history if isinstance(event := each.message, TunnelReady)}
        if Server(first.user, first.server_name) in servers:
            traced.states[first.session] = state
            traced.tunnels[first.session] = tunnels
        elif not _over(state):
            traced.in_use |= tunnels
    return traced


def reserved(history: Iterable[Recorded]) -> set[tuple[SessionId, str]]:
    """The sessions that hold a share of a quota, and of which. Pure."""
    held: set[tuple[SessionId, str]] = set()
    for recorded in history:
        if isinstance(event := recorded.message, QuotaUpdated):
            match event.change:
                case Reserved(session=session):
                    held.add((session, f"{event.resource} on {event.system}"))
                case Released(session=session):
                    held.discard((session, f"{event.resource} on {event.system}"))
                case _:
                    pass
    return held


def _over(state: SessionState) -> bool:
    return isinstance(state, Ended)


def _mentions(name: str, sessions: Iterable[str]) -> bool:
    return any(session in name for session in sessions)


async def _listens(host: str, port: int) -> bool:
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            _, writer = await asyncio.open_connection(host, port)
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True


async def _jobs(name: str, site: UnicoreSite, sessions: Collection[str]) -> list[str]:
    """Jobs of these sessions that an emulated site still has, by its own word."""
    url = f"{'/'.join(site.url.split('/')[:3])}/emulator/jobs"
    timeout = aiohttp.ClientTimeout(total=SITE_SECONDS)
    try:
        tls = ssl.create_default_context(cafile=site.ca_file) if site.ca_file else True
        async with aiohttp.ClientSession(timeout=timeout) as http, http.get(url, ssl=tls) as answer:
            jobs = (await answer.json())["jobs"]
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError, KeyError) as error:
        raise TransientError(
            f"the emulated site of {name} did not answer at {url}: {error!r}; is it running?"
        ) from None
    return [
        f"job {job['id']} ({job['status']}) at {name}"
        for job in jobs
        if any(_mentions(tag, sessions) for tag in job["tags"])
    ]


async def _objects(name: str, cloud: CloudSystem, sessions: Collection[str]) -> list[str]:
    """Objects of these sessions that an emulated cluster still has. Users' volumes are kept."""
    site = cloud.site
    from services._runtime.api_server import api_of  # it loads the Kubernetes client, which takes a second

    api = api_of(cloud.title, site)
    left = []
    try:
        for base, kind in OBJECTS:
            operation = f"looking for {kind}"
            answer = await api.call(operation, "GET", f"{base}/namespaces/{site.namespace}/{kind}")
            names = [each["metadata"]["name"] for each in msgspec.json.decode(answer)["items"]]
            left += [f"{kind} {each} on {name}" for each in names if _mentions(each, sessions)]
    except PermanentError as error:
        raise TransientError(error.reason) from None
    finally:
        await api.close()
    return left
