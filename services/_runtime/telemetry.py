"""Logs and metrics of a service. Label values are bounded: types, services and outcomes, never sessions or users."""

from __future__ import annotations

import logging
import sys
from typing import Literal

import structlog
from prometheus_client import Counter, Gauge, Histogram

EVENTS_APPENDED = Counter("farlab_events_appended_total", "Events this process appended to the log", ["event"])
EVENTS_REFUSED = Counter("farlab_events_refused_total", "Events the state of their session refused", ["event"])
UNREADABLE = Counter("farlab_unreadable_messages_total", "Messages of the log this build cannot read", ["reason"])
WENT_BACK = Counter("farlab_log_went_back_total", "Times the event log was found older than what was read from it")
HANDLED = Counter("farlab_messages_handled_total", "Messages answered, by how", ["event", "outcome"])
HANDLING_SECONDS = Histogram(
    "farlab_message_handling_seconds",
    "From delivery to answer",
    ["event"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
CONSUMER_PENDING = Gauge(
    "farlab_consumer_pending_messages", "Messages of a stream the service has yet to get", ["stream"]
)
CONSUMER_IN_HAND = Gauge(
    "farlab_consumer_in_hand_messages", "Messages the service got and has not answered", ["stream"]
)
CONSUMER_REDELIVERED = Gauge("farlab_consumer_redelivered_messages", "Messages in hand that came again", ["stream"])
SESSIONS_LIVE = Gauge("farlab_sessions_live", "Sessions that have not ended, as this process sees them")

LogFormat = Literal["json", "terminal"]


def configure_logs(service: str, *, level: str = "info", log_format: LogFormat = "json") -> None:
    """Sends all logs of the process to standard error, one line each, with the session they belong to."""
    shared: list[structlog.types.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    last: list[structlog.types.Processor] = (
        [structlog.processors.dict_tracebacks, structlog.processors.JSONRenderer(sort_keys=False)]
        if log_format == "json"
        else [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())]
    )
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, _service(service), *last],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for noisy in ("httpx", "httpcore", "asyncssh", "aiohttp.access", "nats"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    logging.getLogger("asyncio").addFilter(_not_of_closed_tls)


def _not_of_closed_tls(record: logging.LogRecord) -> bool:
    """Whether to say it: asyncio warns at each end of a connection that nats-py has upgraded to TLS."""
    return not str(record.msg).startswith("returning true from eof_received")


def _service(name: str) -> structlog.types.Processor:
    def add(_logger: object, _method: str, event: structlog.types.EventDict) -> structlog.types.EventDict:
        event["service"] = name
        return event

    return add
