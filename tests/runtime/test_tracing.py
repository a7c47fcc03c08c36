"""Spans that live services send: under the ids of the log, bare of secrets, to a collector, or nowhere."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from aiohttp import web
from opentelemetry import trace
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from benchmarks import instant_services
from schemas.session import TunnelReady
from schemas.subjects import Subjects
from schemas.wire import span_id, trace_id
from services._runtime import tracing
from services._runtime.errors import PermanentError
from services._runtime.log import Recorded
from services._runtime.memory import MemoryLog
from services._runtime.session_service import SessionService
from services.operator_cli.monitoring.trace import trace as trace_of_log
from tests.support.samples import SYSTEM, Story, stamp

SUBJECTS = Subjects()


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """What is sent; the provider is this test's alone."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(tracing, "_tracer", provider.get_tracer("farlab"))
    yield exporter
    provider.shutdown()


async def lived(services: list[SessionService[object]], log: MemoryLog, story: Story) -> list[Recorded]:
    for service in services:
        await service.start()
    request = stamp("farlab/hub-bridge")(story.requested(), after=0, cause=None)
    scope = SUBJECTS.session(story.session)
    await log.append("SESSIONS", SUBJECTS.session_event(request), request, scope=scope, after=0)
    await log.settled()
    for service in services:
        await service.close()
    return await log.history("SESSIONS", scope)


def hexadecimal(span: ReadableSpan) -> tuple[str, str]:
    """A span's trace and its parent, as they stand in headers."""
    assert span.context is not None
    return f"{span.context.trace_id:032x}", f"{span.parent.span_id:016x}" if span.parent else ""


async def test_live_spans_stand_under_those_of_the_log(exported: InMemorySpanExporter) -> None:
    log, story = MemoryLog(), Story()
    names = ("accounts", "hpc-launcher", "tunneler")
    history = await lived([instant_services.build(name, log, SUBJECTS, SYSTEM) for name in names], log, story)  # type: ignore[arg-type]
    assert isinstance(history[-1].message, TunnelReady)
    spans = exported.get_finished_spans()
    assert {hexadecimal(span)[0] for span in spans} == {trace_id(story.session)}
    of_log = {
        span["spanId"]
        for each in trace_of_log(history)["resourceSpans"]
        for scope in each["scopeSpans"]
        for span in scope["spans"]
    }
    handles = [span for span in spans if " handles " in span.name]
    assert [span.name for span in handles] == [
        "accounts handles start-requested",
        "hpc-launcher handles start-admitted",
        "tunneler handles server-listening",
    ]
    assert {hexadecimal(span)[1] for span in handles} <= of_log
    own = {f"{span.context.span_id:016x}": span.name for span in spans if span.context}
    assert {span.name: own[hexadecimal(span)[1]] for span in spans if span not in handles} == {
        "perform Admit": "accounts handles start-requested",
        "perform CreateJob": "hpc-launcher handles start-admitted",
        "perform SubmitJob": "hpc-launcher handles start-admitted",
        "perform OpenTunnel": "tunneler handles server-listening",
    }
    noted = {note.attributes["farlab.span"] for span in spans for note in span.events if note.attributes}
    assert {str(each).split("-")[2] for each in noted} == of_log - {span_id(history[0].message.id)}
    assert "ada" not in "".join(span.to_json() for span in spans)


def test_an_error_is_told_by_its_type_alone(exported: InMemorySpanExporter) -> None:
    story = Story()
    event = stamp()(story.admitted(), after=1, cause=None)
    with pytest.raises(PermanentError), tracing.handling("x", event):
        raise PermanentError("no", "the token is canary", "")
    [span] = exported.get_finished_spans()
    assert (span.status.is_ok, span.status.description, span.events) == (False, "PermanentError", ())
    assert "canary" not in span.to_json()


def test_an_id_that_is_no_number_has_a_span_of_its_own() -> None:
    assert span_id("0123456789abcdef0123456789abcdef") == "0123456789abcdef"  # type: ignore[arg-type]
    for odd in ("", "0" * 32, "not hexadecimal at all", "ABCDEF0123456789"):
        assert int(span_id(odd), 16)  # type: ignore[arg-type]
        assert len(span_id(odd)) == 16  # type: ignore[arg-type]


SENDS = """
import sys
from services._runtime.tracing import Traces, handling, start_traces
from tests.support.samples import Story, stamp
send_last = start_traces(Traces(otlp_url=sys.argv[1]), "accounts", "farlab")
with handling("accounts", stamp()(Story().requested(), after=0, cause=None)):
    pass
send_last()
"""


async def test_a_collector_gets_them_over_otlp() -> None:
    got: list[Any] = []

    async def take(request: web.Request) -> web.Response:
        got.append(ExportTraceServiceRequest.FromString(await request.read()))
        return web.Response()

    collector = web.Application()
    collector.add_routes([web.post("/v1/traces", take)])
    runner = web.AppRunner(collector)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1/traces"
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", SENDS, url)
        async with asyncio.timeout(20):
            assert await process.wait() == 0
    finally:
        await runner.cleanup()
    [request] = got
    [resource] = request.resource_spans
    assert "farlab-accounts" in {each.value.string_value for each in resource.resource.attributes}
    [span] = resource.scope_spans[0].spans
    assert span.name == "accounts handles start-requested"
    assert len(span.parent_span_id) == 8


def test_nothing_is_sent_and_no_sdk_is_needed_where_no_address_is_given() -> None:
    tracing.start_traces(tracing.Traces(), "accounts", "farlab")()
    assert not isinstance(trace.get_tracer_provider(), TracerProvider)
    told = subprocess.run(
        [sys.executable, "-c", "import services._runtime.service, sys; print('opentelemetry.sdk' in sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    assert told.stdout.strip() == "False"
