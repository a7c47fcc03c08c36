"""Calls of the forced command on a Slurm site's login nodes, as the user, by SSH. Knows no jobs; opens no shell."""

from __future__ import annotations

import asyncio
import random
import re
import stat
from collections import OrderedDict, defaultdict
from pathlib import Path
from time import monotonic
from typing import Any

import asyncssh
import msgspec

from services._runtime.configuration import ConfigurationError
from services._runtime.errors import PermanentError, TransientError
from services._runtime.systems import SlurmSite
from services.hpc_launcher.limits import Breaker, Limiter

CONNECTIONS_KEPT = 64
MOST_ANSWER_BYTES = 64 * 1024 * 1024
COMMAND = "farlab-slurm"
_ACCOUNT = re.compile(r"[a-z_][a-z0-9_.-]{0,31}")
_AWAY = {
    "scheduler-away": "its Slurm controller does not answer",
    "authentication": "Slurm on its login node is not trusted (munge)",
    "unreadable": "Slurm answered with something else than JSON",
    "no-slurm": "Slurm's commands are missing on its login node",
}


class NoSuchJobError(Exception):
    """Slurm answers and knows no such job."""


class SlurmShell:
    """The command on whichever login node answers; one connection an account, kept for the next call.

    Raises TransientError, PermanentError and NoSuchJobError.
    """

    def __init__(self, title: str, site: SlurmSite) -> None:
        """Raises ConfigurationError when the key or the known hosts cannot be read."""
        self._title = title
        self._site = site
        self._key = _key(Path(site.key_file))
        self._known_hosts = _known_hosts(site.known_hosts_file)
        self._limiter = Limiter(per_second=site.requests_per_second, at_once=site.concurrent_requests, clock=monotonic)
        self._breaker = Breaker(monotonic)
        self._connections: OrderedDict[str, asyncssh.SSHClientConnection] = OrderedDict()
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def call(self, account: str, verb: str, /, **words: Any) -> dict[str, Any]:
        """The answer to a request, made as this account."""
        if not _ACCOUNT.fullmatch(account) or account == "root":
            raise PermanentError("bad-account", f"{account!r} is no user's account at {self._title}.", _ASK)
        if closed := self._breaker.closed_seconds():
            raise TransientError(f"{self._title}: {self._breaker.reason}", closed)
        self._breaker.begin()
        try:
            async with self._limiter.turn(), asyncio.timeout(self._site.timeout_seconds):
                said = await self._ask(account, msgspec.json.encode({"verb": verb, **words}))
        except asyncssh.PermissionDenied:
            self._breaker.succeeded()  # the node lives: what it refuses to one account says nothing of the others
            raise TransientError(f"{self._title} does not let this service act as {account}") from None
        except asyncssh.HostKeyNotVerifiable:
            return self._failed("its login node's host key is not the pinned one")
        except TimeoutError:
            return self._failed(f"its login node did not answer in {self._site.timeout_seconds:g} s")
        except (OSError, asyncssh.Error) as error:
            return self._failed(f"its login node is away ({type(error).__name__})")
        except BaseException:
            self._breaker.abandoned()
            raise
        return self._judged(said)

    def troubles(self) -> list[str]:
        """Why the site cannot be used right now."""
        return [f"{self._title}: {self._breaker.reason}"] if self._breaker.is_open else []

    async def close(self) -> None:
        """Ends all connections."""
        for connection in self._connections.values():
            connection.abort()
        self._connections.clear()

    def _failed(self, reason: str) -> dict[str, Any]:
        self._breaker.failed(reason)
        raise TransientError(f"{self._title}: {reason}")

    def _judged(self, said: bytes) -> dict[str, Any]:
        try:
            answer = msgspec.json.decode(said, type=dict[str, Any])
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return self._failed("the forced command did not answer with JSON; does a login script print something?")
        code, reason = str(answer.get("error", "")), str(answer.get("reason", ""))[:500]
        if code in _AWAY:
            return self._failed(f"{_AWAY[code]}: {reason}")
        self._breaker.succeeded()
        match code:
            case "":
                return answer
            case "no-such-job":
                raise NoSuchJobError(reason)
            case "refused":
                raise PermanentError(
                    "refused-by-slurm",
                    f"Slurm at {self._title} refused the job: {reason}",
                    "Ask for less time or fewer nodes, choose another project or partition, or ask the site.",
                )
            case "disk-full":
                raise PermanentError(
                    "disk-full",
                    f"Your home directory at {self._title} is full: {reason}",
                    "Remove files you no longer need there, then start the server again.",
                )
            case _:
                raise PermanentError("login-node", f"The login node of {self._title} refused: {reason}", _ASK)

    async def _ask(self, account: str, request: bytes) -> bytes:
        connection = await self._connection(account)
        try:
            done = await connection.run(COMMAND, input=request, encoding=None)
        except asyncssh.ChannelOpenError:
            # Ended by the other side since the last call, or at MaxSessions: a new connection serves either.
            self._drop(account, connection)
            connection = await self._connection(account)
            done = await connection.run(COMMAND, input=request, encoding=None)
        said = done.stdout or b""
        return said if isinstance(said, bytes) and len(said) <= MOST_ANSWER_BYTES else b""

    async def _connection(self, account: str) -> asyncssh.SSHClientConnection:
        async with self._locks[account]:
            kept = self._connections.get(account)
            if kept is not None and not kept.is_closed():
                self._connections.move_to_end(account)
                return kept
            made = await self._connect(account)
            self._connections[account] = made
            while len(self._connections) > CONNECTIONS_KEPT:
                _, oldest = self._connections.popitem(last=False)
                oldest.close()
            return made

    def _drop(self, account: str, connection: asyncssh.SSHClientConnection) -> None:
        if self._connections.get(account) is connection:
            del self._connections[account]
            connection.close()

    async def _connect(self, account: str) -> asyncssh.SSHClientConnection:
        trouble: Exception = OSError("no login node is configured")
        for node in random.sample(self._site.login_nodes, len(self._site.login_nodes)):
            host, _, port = node.rpartition(":")
            try:
                return await asyncssh.connect(
                    host,
                    int(port),
                    username=account,
                    client_keys=[self._key],
                    known_hosts=self._known_hosts,
                    keepalive_interval=10,
                    agent_path=None,
                    config=None,
                    preferred_auth="publickey",
                    compression_algs=None,
                )
            except (OSError, asyncssh.Error) as error:
                trouble = error
        raise trouble


_ASK = "Ask the operator of this service."


def _key(file: Path) -> asyncssh.SSHKey:
    try:
        if file.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise ConfigurationError(f"{file}: others may read this key; run: chmod 600 {file}")
        return asyncssh.read_private_key(file)
    except OSError as error:
        raise ConfigurationError(f"site.key_file = {file}: cannot be read: {error.strerror}") from None
    except asyncssh.KeyImportError as error:
        raise ConfigurationError(f"site.key_file = {file}: not a private SSH key: {error}") from None


def _known_hosts(file: str) -> asyncssh.SSHKnownHosts:
    try:
        return asyncssh.read_known_hosts(file)
    except OSError as error:
        raise ConfigurationError(f"site.known_hosts_file = {file}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise ConfigurationError(f"site.known_hosts_file = {file}: not a known_hosts file: {error}") from None
