"""OpenTelemetry spans of what services do with events. Off until told where to send them; judges nothing.

The trace of a session is that of its log: the trace id is the session's, and what a service does with an event stands
under the span id that the event's `traceparent` names (`schemas.wire`, W3C Trace Context). `farlab trace --to` sends
the spans of the events themselves, made from the log. No span carries more than ids and types.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Annotated

import msgspec
from msgspec import Meta
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, Status, StatusCode, TraceFlags

from schemas.base import event_name
from schemas.session import SessionEvent
from schemas.wire import traceparent
from services._runtime.configuration import ConfigurationError

SEND_SECONDS = 5.0

_tracer: trace.Tracer | None = None
"""None until spans are sent somewhere: most installations send none, and every event would pay for them."""


class Traces(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where spans are sent, OTLP over HTTP, such as `http://127.0.0.1:4318/v1/traces`. Without an address: nowhere."""

    otlp_url: Annotated[str, Meta(pattern=r"^(https?://[^@\s]+)?$")] = ""


def start_traces(traces: Traces, service: str, installation: str) -> Callable[[], None]:
    """Sends the spans of this process from now on, if it is told where. Returns what sends the last ones at its end.

    Raises ConfigurationError where OpenTelemetry's SDK is not installed.
    """
    if not traces.otlp_url:
        return lambda: None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        raise ConfigurationError(
            f"traces.otlp_url = {traces.otlp_url}: OpenTelemetry's SDK is not installed; install farlab[traces]"
        ) from None
    who = {"service.name": f"farlab-{service}", "service.namespace": installation}
    provider = TracerProvider(resource=Resource.create(who), shutdown_on_exit=False)
    exporter = OTLPSpanExporter(endpoint=traces.otlp_url, timeout=SEND_SECONDS)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    global _tracer
    _tracer = provider.get_tracer("farlab")
    return provider.shutdown


@contextlib.contextmanager
def handling(service: str, event: SessionEvent) -> Iterator[None]:
    """A span for what a service does with an event, under the span that its header names."""
    if _tracer is None:
        yield
        return
    _, trace_id, span_id, _ = traceparent(event).split("-")
    parent = SpanContext(
        int(trace_id, 16), int(span_id, 16), is_remote=True, trace_flags=TraceFlags(TraceFlags.SAMPLED)
    )
    attributes = {
        "farlab.session": event.session,
        "farlab.system": event.system,
        "farlab.hub": event.hub,
        "farlab.event": event_name(event),
    }
    under = trace.set_span_in_context(NonRecordingSpan(parent))
    with _span(_tracer, f"{service} handles {event_name(event)}", SpanKind.CONSUMER, attributes, under):
        yield


@contextlib.contextmanager
def performing(command: object) -> Iterator[None]:
    """A span for what is carried out in the world, under what is being handled."""
    if _tracer is None:
        yield
        return
    name = type(command).__name__
    with _span(_tracer, f"perform {name}", SpanKind.CLIENT, {"farlab.command": name}, None):
        yield


def note_append(event: SessionEvent) -> None:
    """Notes on the span that is under way that an event was appended: its own span is made from the log."""
    if _tracer is not None:
        trace.get_current_span().add_event(f"appended {event_name(event)}", {"farlab.span": traceparent(event)})


@contextlib.contextmanager
def _span(
    tracer: trace.Tracer, name: str, kind: SpanKind, attributes: dict[str, str], under: Context | None
) -> Iterator[None]:
    """A span that tells of an error its type alone: texts of errors may hold what no collector should see."""
    with tracer.start_as_current_span(
        name, under, kind, attributes, record_exception=False, set_status_on_exception=False
    ) as span:
        try:
            yield
        except Exception as error:
            span.set_status(Status(StatusCode.ERROR, type(error).__name__))
            raise
