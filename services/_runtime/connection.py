"""Opens the broker for one service, signed in with its own nkey. Publishes nothing."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path
from typing import Any

import nats.errors
import nkeys
import structlog
from nats.aio.client import Client

from services._runtime.configuration import ConfigurationError
from services._runtime.errors import TransientError
from services._runtime.jetstream import JetStreamBucket, JetStreamLog
from services._runtime.nats_client import QuickClient
from services._runtime.rpc import NatsRpc
from services._runtime.settings import Configuration, Nats
from services._runtime.tasks import end
from services._runtime.vault import KeyFileError, read_secret_file

_log = structlog.get_logger("farlab.connection")

RECONNECT_SECONDS = 0.05


class Broker:
    """The open connection of one service, its log and its buckets."""

    def __init__(self, configuration: Configuration, client: Any) -> None:
        self.client = client
        self.closing = False
        self.log = JetStreamLog(client, configuration.subjects)
        self.leases = JetStreamBucket(self.log.js, configuration.subjects, "leases")
        self.vault = JetStreamBucket(self.log.js, configuration.subjects, "vault")
        self.access = JetStreamBucket(self.log.js, configuration.subjects, "access")
        self.tokens = JetStreamBucket(self.log.js, configuration.subjects, "tokens")
        self.activity = JetStreamBucket(self.log.js, configuration.subjects, "activity")
        self.rpc = NatsRpc(client)

    @property
    def connected(self) -> bool:
        """Whether the connection is up now."""
        return bool(self.client.is_connected)

    async def close(self) -> None:
        """Flushes what is on its way and closes."""
        self.closing = True
        await self.client.close()


async def connect(configuration: Configuration, service: str) -> Broker:
    """Connects as a service.

    Raises TransientError when no server lets it in within `connect_seconds`, KeyFileError for a bad nkey and
    ConfigurationError for a bad CA file.
    """
    settings = configuration.shared.nats
    brokers: list[Broker] = []
    troubles: list[Exception] = []

    async def reconnected() -> None:
        _log.info("connected to the event log again")
        for broker in brokers:
            broker.log.reconnected()

    async def disconnected() -> None:
        if not all(broker.closing for broker in brokers):
            _log.warning("connection to the event log lost")

    async def trouble(error: Exception) -> None:
        if not _refused(troubles):
            troubles[:] = [error]
        _log.debug("broker", error=repr(error))

    options: dict[str, Any] = {
        "name": f"farlab-{service}",
        "reconnect_time_wait": RECONNECT_SECONDS,
        "max_reconnect_attempts": -1,
        "ping_interval": 5,
        "connect_timeout": 2,
        "inbox_prefix": f"_INBOX.{service}".encode(),
        "reconnected_cb": reconnected,
        "disconnected_cb": disconnected,
        "error_cb": trouble,
        "pending_size": 16 * 1024 * 1024,
    }
    if settings.nkeys_folder:
        options["nkeys_seed_str"] = _seed(configuration.file.parent / settings.nkeys_folder / f"{service}.nk")
    if settings.ca_file:
        options["tls"] = _tls(configuration.file.parent / settings.ca_file)
    client = await _connected(settings, service, options, troubles)
    broker = Broker(configuration, client)
    brokers.append(broker)
    return broker


async def _connected(settings: Nats, service: str, options: dict[str, Any], troubles: list[Exception]) -> Client:
    """A connected client. nats-py itself tries for ever where it shall reconnect for ever, so the limit is ours."""
    client = QuickClient()
    connecting = asyncio.create_task(client.connect(settings.servers, allow_reconnect=True, **options))
    try:
        await asyncio.wait({connecting}, timeout=settings.connect_seconds)
        await end([connecting])
        if not connecting.cancelled():
            connecting.result()
            return client
    except (nats.errors.Error, OSError, TimeoutError) as error:
        if not _refused(troubles):
            troubles[:] = [error]
    except BaseException:
        await end([connecting])
        await client.close()
        raise
    await client.close()
    servers = ", ".join(settings.servers)
    last = troubles[0] if troubles else None
    if _refused(troubles):
        raise TransientError(
            f"the NATS server at {servers} does not let {service} in; does it know its nkey?"
        ) from last
    raise TransientError(f"no NATS server answers at {servers} ({last!r}); is it running?") from last


def _refused(troubles: list[Exception]) -> bool:
    """Whether a server said no: it closes the connection with that, and what follows tells less."""
    return any("authorization" in str(trouble).lower() for trouble in troubles)


def _seed(file: Path) -> str:
    content = read_secret_file(file).strip()
    try:
        nkeys.from_seed(bytearray(content)).wipe()
        return content.decode()
    except (nkeys.NkeysError, ValueError):
        raise KeyFileError(
            f"{file}: not the seed of an nkey; put that of a NATS user there (it begins with SU)"
        ) from None


def _tls(ca_file: Path) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=str(ca_file))
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(f"nats.ca_file = {ca_file}: not a certificate file: {error}") from None
