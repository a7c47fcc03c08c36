"""A session's OpenTelemetry trace, made again from its log: the trace and span ids are those in its headers. Pure.

Every event is a span from what caused it until it was appended; `traceparent` names the same ids (`wire`), so spans of
programs that saw the header stand under it. The form is OTLP's JSON (opentelemetry-proto, trace/v1).
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from schemas.base import event_name
from schemas.session import SessionEnded
from schemas.wire import span_id, trace_id
from services.operator_cli.story.history import History, Moment, first_event, moments, state_name

INTERNAL, OK, ERROR = 1, 1, 2
"""Numbers of OTLP's enumerations `SpanKind` and `StatusCode`."""
FAILED = ("failed", "lost", "expired", "rejected")


def trace(history: History) -> dict[str, Any]:
    """The trace of one session. Raises NoSuchSessionError for a history this build can read nothing of."""
    session = first_event(history).session
    told = list(moments(history))
    by_service: dict[str, list[dict[str, Any]]] = {}
    when = {moment.event.id: moment.event.at for moment in told}
    for moment in told:
        service = moment.event.source.rpartition("/")[2] or "unknown"
        by_service.setdefault(service, []).append(_span(moment, told[0], when, trace_id(session), told[-1].event.at))
    return {
        "resourceSpans": [
            {
                "resource": {"attributes": [_attribute("service.name", f"farlab-{service}")]},
                "scopeSpans": [{"scope": {"name": "farlab.log"}, "spans": spans}],
            }
            for service, spans in by_service.items()
        ]
    }


def _span(moment: Moment, first: Moment, when: dict[Any, datetime], trace: str, last: datetime) -> dict[str, Any]:
    event = moment.event
    root = event.id == first.event.id
    caused = event.cause is not None and event.cause in when and event.cause != event.id
    parent = event.cause if caused and event.cause else first.event.id
    # The first event spans the whole session, so that every other stands under it.
    begin, end = (event.at, last) if root else (min(when[parent], event.at), event.at)
    return {
        "traceId": trace,
        "spanId": span_id(event.id),
        **({} if root else {"parentSpanId": span_id(parent)}),
        "name": event_name(event),
        "kind": INTERNAL,
        "startTimeUnixNano": _nanoseconds(begin),
        "endTimeUnixNano": _nanoseconds(max(begin, end)),
        "attributes": [
            _attribute("farlab.session", event.session),
            _attribute("farlab.system", event.system),
            _attribute("farlab.hub", event.hub),
            _attribute("farlab.state", state_name(moment.after)),
            _attribute("farlab.sequence", str(moment.sequence)),
        ],
        "status": _status(moment),
    }


def _status(moment: Moment) -> dict[str, Any]:
    if isinstance(moment.event, SessionEnded):
        return {"code": ERROR, "message": moment.event.outcome} if moment.event.outcome in FAILED else {"code": OK}
    return {} if moment.legal else {"code": ERROR, "message": "refused by the state of its session"}


def _attribute(key: str, value: str) -> dict[str, Any]:
    return {"key": key, "value": {"stringValue": value}}


def _nanoseconds(moment: datetime) -> str:
    """OTLP's JSON has 64-bit numbers as text. By parts: a float has no room for microseconds since 1970."""
    return str(int(moment.timestamp()) * 1_000_000_000 + moment.microsecond * 1000)
