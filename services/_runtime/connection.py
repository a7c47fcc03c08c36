"""Opens the broker for one service, signed in with its own nkey. Publishes nothing."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path
from typing import Any

import nats
import nats.errors
import structlog

from services._runtime.configuration import ConfigurationError
from services._runtime.errors import TransientError
from services._runtime.jetstream import JetStreamBucket, JetStreamLog
from services._runtime.settings import Configuration
from services._runtime.vault import read_secret_file

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

    @property
    def connected(self) -> bool:
        """Whether the connection is up now."""
        return bool(self.client.is_connected)

    async def close(self) -> None:
        """Flushes what is on its way and closes."""
        self.closing = True
        await self.client.close()


async def connect(configuration: Configuration, service: str) -> Broker:
    """Connects as a service. Raises TransientError when no server answers, ConfigurationError for bad keys."""
    settings = configuration.shared.nats
    brokers: list[Broker] = []

    async def reconnected() -> None:
        _log.info("connected to the event log again")
        for broker in brokers:
            broker.log.reconnected()

    async def disconnected() -> None:
        if not all(broker.closing for broker in brokers):
            _log.warning("connection to the event log lost")

    async def trouble(error: Exception) -> None:
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
        seed = configuration.file.parent / settings.nkeys_folder / f"{service}.nk"
        options["nkeys_seed_str"] = read_secret_file(seed).decode().strip()
    if settings.ca_file:
        options["tls"] = _tls(configuration.file.parent / settings.ca_file)
    try:
        async with asyncio.timeout(settings.connect_seconds):  # until then nats-py tries again and again by itself
            client = await nats.connect(settings.servers, allow_reconnect=True, **options)
    except (nats.errors.Error, OSError, TimeoutError) as error:
        raise TransientError(
            f"no NATS server answers at {', '.join(settings.servers)} and takes the key of {service}; is it running?"
        ) from error
    broker = Broker(configuration, client)
    brokers.append(broker)
    return broker


def _tls(ca_file: Path) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=str(ca_file))
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(f"nats.ca_file = {ca_file}: not a certificate file: {error}") from None
