"""One SSH connection to a system's login node, kept up, that multiplexes every forward. Runs no command, ever."""

from __future__ import annotations

import asyncio
import contextlib
import random
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path

import asyncssh
import structlog

from services._runtime.configuration import ConfigurationError
from services._runtime.systems import SshReach
from services.tunneler.ports import LostError

_log = structlog.get_logger("farlab.tunneler.ssh")

CIPHERS = ["aes128-gcm@openssh.com", "aes256-gcm@openssh.com", "chacha20-poly1305@openssh.com"]
KEY_EXCHANGES = ["curve25519-sha256", "curve25519-sha256@libssh.org", "ecdh-sha2-nistp256", "ecdh-sha2-nistp384"]
HOST_KEYS = ["ssh-ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "rsa-sha2-512", "rsa-sha2-256"]
FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 30.0

Established = Callable[[asyncssh.SSHClientConnection], Awaitable[None]]


def read_client_key(file: Path) -> asyncssh.SSHKey:
    """The private key in a file that only its owner may read. Raises ConfigurationError."""
    try:
        mode = file.stat().st_mode
        if mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise ConfigurationError(f"{file}: others may read this key; run: chmod 600 {file}")
        return asyncssh.read_private_key(file)
    except OSError as error:
        raise ConfigurationError(f"reach.key_file = {file}: cannot be read: {error.strerror}") from None
    except asyncssh.KeyImportError as error:
        raise ConfigurationError(f"reach.key_file = {file}: not a private SSH key: {error}") from None


def read_known_hosts(file: Path) -> asyncssh.SSHKnownHosts:
    """The pinned host keys in a file. Raises ConfigurationError: nothing is ever trusted on first use."""
    try:
        return asyncssh.read_known_hosts(str(file))
    except OSError as error:
        raise ConfigurationError(f"reach.known_hosts_file = {file}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise ConfigurationError(f"reach.known_hosts_file = {file}: not a known_hosts file: {error}") from None


class LoginNodeConnection:
    """The connection to whichever of a system's login nodes answers; made again after a loss, with backoff."""

    def __init__(self, reach: SshReach, established: Established) -> None:
        self._reach = reach
        self._key = read_client_key(Path(reach.key_file))
        self._known_hosts = read_known_hosts(Path(reach.known_hosts_file))
        self._established = established
        self._connection: asyncssh.SSHClientConnection | None = None
        self._up = asyncio.Event()
        self._wanted = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None
        self.host = ""
        self.trouble = "not connected yet"

    @property
    def connected(self) -> bool:
        """Whether it is up now."""
        return self._up.is_set()

    def start(self) -> None:
        """Begins to keep the connection up."""
        self._keeper = asyncio.create_task(self._keep())

    async def close(self) -> None:
        """Ends the connection and no longer makes it."""
        if self._keeper is not None:
            self._keeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._keeper
            self._keeper = None
        if self._connection is not None:
            self._connection.abort()
            self._connection = None
        self._up.clear()

    async def get(self, patience_seconds: float) -> asyncssh.SSHClientConnection:
        """The connection, waited for while it is being made. Raises LostError."""
        self._wanted.set()
        try:
            async with asyncio.timeout(patience_seconds):
                await self._up.wait()
        except TimeoutError:
            raise LostError(f"no login node answers: {self.trouble}") from None
        connection = self._connection
        if connection is None:
            raise LostError(f"no login node answers: {self.trouble}")
        return connection

    async def _keep(self) -> None:
        failures = 0
        while True:
            try:
                connection = await self._connect()
            except (OSError, asyncssh.Error, TimeoutError) as error:
                self.trouble = _told(error)
                pause = min(FIRST_PAUSE_SECONDS * 2.0**failures, LONGEST_PAUSE_SECONDS)
                failures += 1
                _log.warning("no login node", reason=self.trouble, pause_seconds=round(pause, 1))
                await self._pause(pause * random.uniform(0.75, 1.0))  # noqa: S311 - jitter, not a secret
                continue
            failures = 0
            self._connection = connection
            self._up.set()
            _log.info("login node connected", host=self.host)
            hook = asyncio.create_task(self._established_safely(connection))
            await connection.wait_closed()
            hook.cancel()
            self._up.clear()
            self._connection = None
            self.trouble = f"the connection to {self.host} was lost"
            _log.warning("login node lost", host=self.host)

    async def _established_safely(self, connection: asyncssh.SSHClientConnection) -> None:
        try:
            await self._established(connection)
        except (OSError, asyncssh.Error, LostError) as error:
            _log.warning("after connecting", host=self.host, reason=_told(error))

    async def _pause(self, seconds: float) -> None:
        """A pause that someone who needs the connection cuts short, down to the first."""
        self._wanted.clear()
        await asyncio.sleep(min(seconds, FIRST_PAUSE_SECONDS))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(seconds - FIRST_PAUSE_SECONDS, 0.0)):
                await self._wanted.wait()

    async def _connect(self) -> asyncssh.SSHClientConnection:
        trouble: Exception = OSError("no login node is configured")
        nodes = list(self._reach.login_nodes)
        random.shuffle(nodes)
        for node in nodes:
            host, _, port = node.rpartition(":")
            try:
                async with asyncio.timeout(self._reach.connect_seconds):
                    connection = await asyncssh.connect(
                        host,
                        int(port),
                        username=self._reach.user,
                        client_keys=[self._key],
                        known_hosts=self._known_hosts,
                        server_host_key_algs=HOST_KEYS,
                        encryption_algs=CIPHERS,
                        kex_algs=KEY_EXCHANGES,
                        keepalive_interval=self._reach.keepalive_seconds,
                        keepalive_count_max=3,
                        agent_path=None,
                        agent_forwarding=False,
                        config=None,
                        preferred_auth="publickey",
                        compression_algs=None,
                    )
            except (OSError, asyncssh.Error, TimeoutError) as error:
                trouble = error
                continue
            self.host = node
            return connection
        raise trouble


def _told(error: BaseException) -> str:
    if isinstance(error, asyncssh.HostKeyNotVerifiable):
        return "the login node's host key is not the pinned one"
    if isinstance(error, asyncssh.PermissionDenied):
        return "the login node does not accept the tunneler's key"
    if isinstance(error, TimeoutError):
        return "the login node does not answer in time"
    return str(error) or type(error).__name__
