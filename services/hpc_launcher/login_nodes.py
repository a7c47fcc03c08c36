"""SSH connections to a Slurm site's login nodes, one an account, kept for the next call. Knows no request's meaning."""

from __future__ import annotations

import asyncio
import random
import stat
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from pathlib import Path
from time import monotonic

import asyncssh

from services._runtime.configuration import ConfigurationError
from services._runtime.systems import SlurmSite

COMMAND = "farlab-slurm"
SILENT = "its login node takes connections and says nothing"
CONNECTIONS_KEPT = 64
MOST_ANSWER_BYTES = 64 * 1024 * 1024
AWAY_FACTOR = 3.0
"""A node that took connections and said nothing is left alone for so many times what it was waited for."""


class NodesAwayError(Exception):
    """Every login node was silent a moment ago, and for how long none is asked again."""

    def __init__(self, seconds: float) -> None:
        super().__init__(SILENT)
        self.seconds = seconds


class LoginNodes:
    """The forced command on whichever login node answers. Raises NodesAwayError, OSError and asyncssh.Error."""

    def __init__(self, site: SlurmSite, clock: Callable[[], float] = monotonic) -> None:
        """Raises ConfigurationError when the key or the known hosts cannot be read."""
        self._site = site
        self._key = _key(Path(site.key_file))
        self._known_hosts = _known_hosts(site.known_hosts_file)
        self._clock = clock
        self._away_until: dict[str, float] = {}
        self._connections: OrderedDict[str, _Shared] = OrderedDict()
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def ask(self, account: str, request: bytes) -> bytes:
        """What the command answers to a request, made as this account."""
        connection = await self._connection(account)
        try:
            return await connection.run(request)
        except asyncssh.ChannelOpenError:
            # Ended by the other side since the last call.
            self._leave(account, connection)
            return await (await self._connection(account)).run(request)
        except asyncio.CancelledError:
            # Nobody knows whether the node would have answered: the next call finds out by a connection of its own.
            self._leave(account, connection)
            raise

    def away_seconds(self) -> float:
        """For how long no login node is asked, because each was silent; 0 when one may be."""
        now = self._clock()
        return max(0.0, min(self._away_until.get(node, now) for node in self._site.login_nodes) - now)

    async def close(self) -> None:
        """Ends all connections."""
        for connection in self._connections.values():
            connection.abort()
        self._connections.clear()

    async def _connection(self, account: str) -> _Shared:
        async with self._locks[account]:
            kept = self._connections.get(account)
            if kept is not None and not kept.is_closed():
                self._connections.move_to_end(account)
                return kept
            made = self._connections[account] = _Shared(await self._connect(account))
            while len(self._connections) > CONNECTIONS_KEPT:
                self._connections.popitem(last=False)[1].leave()
            return made

    def _leave(self, account: str, connection: _Shared) -> None:
        if self._connections.get(account) is connection:
            del self._connections[account]
        connection.leave()

    async def _connect(self, account: str) -> asyncssh.SSHClientConnection:
        now = self._clock()
        nodes = [node for node in self._site.login_nodes if self._away_until.get(node, now) <= now]
        trouble: Exception | None = None
        for node in random.sample(nodes, len(nodes)):
            try:
                async with asyncio.timeout(self._site.connect_seconds):
                    return await self._connect_to(node, account)
            except TimeoutError:
                self._away_until[node] = self._clock() + AWAY_FACTOR * self._site.connect_seconds
            except (OSError, asyncssh.Error) as error:
                trouble = error
        raise trouble or NodesAwayError(self.away_seconds())

    async def _connect_to(self, node: str, account: str) -> asyncssh.SSHClientConnection:
        host, _, port = node.rpartition(":")
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


class _Shared:
    """A connection, with as many calls at once as the node allows: sshd's MaxSessions, which only a refusal tells."""

    def __init__(self, connection: asyncssh.SSHClientConnection) -> None:
        self._connection = connection
        self._calls = 0
        self._most: int | None = None
        self._freed = asyncio.Event()
        self._left = False

    def is_closed(self) -> bool:
        """Whether it is of no use any more."""
        return self._connection.is_closed()

    async def run(self, request: bytes) -> bytes:
        """The command's answer. Raises ChannelOpenError where the connection takes no call at all."""
        while True:
            while self._most is not None and self._calls >= self._most:
                self._freed.clear()
                await self._freed.wait()
            self._calls += 1
            try:
                done = await self._connection.run(COMMAND, input=request, encoding=None)
            except asyncssh.ChannelOpenError:
                if self.is_closed() or self._calls == 1:
                    raise
                self._most = self._calls - 1
                continue
            finally:
                self._calls -= 1
                self._freed.set()
                self._abort_when_idle()
            said = done.stdout or b""
            return said if isinstance(said, bytes) and len(said) <= MOST_ANSWER_BYTES else b""

    def leave(self) -> None:
        """Ends it after the calls that are on it."""
        self._left = True
        self._abort_when_idle()

    def abort(self) -> None:
        """Ends it now."""
        self._connection.abort()

    def _abort_when_idle(self) -> None:
        if self._left and self._calls == 0:
            self.abort()


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
