"""Alerts, dashboard and traces: true to the metrics there are, the runbooks there are, and the headers on the wire."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from aiohttp import web
from prometheus_client import REGISTRY
from typer.testing import CliRunner

from schemas.session import AnySessionEvent
from schemas.wire import cloudevents_headers
from services._runtime import telemetry
from services._runtime.errors import TransientError
from services.operator_cli.__main__ import app
from services.operator_cli.commands.monitoring import _send
from services.operator_cli.monitoring.alerts import ALERTS, RUNBOOKS, Alert, rules
from services.operator_cli.monitoring.dashboard import PANELS, dashboard
from services.operator_cli.monitoring.trace import trace
from tests.services.operator_cli.histories import recorded
from tests.support.running import ROOT
from tests.support.samples import Story

QUERIES = [*(alert.expression for alert in ALERTS), *(panel.query for panel in PANELS)]
OUTCOMES = {"acknowledged", "skipped", "retried", "buried"}
SPAN: dict[str, Any] = {
    "type": "object",
    "required": ["traceId", "spanId", "name", "kind", "startTimeUnixNano", "endTimeUnixNano"],
    "properties": {
        "traceId": {"pattern": "^[0-9a-f]{32}$"},
        "spanId": {"pattern": "^[0-9a-f]{16}$"},
        "parentSpanId": {"pattern": "^[0-9a-f]{16}$"},
        "startTimeUnixNano": {"pattern": "^[0-9]{19}$"},
        "endTimeUnixNano": {"pattern": "^[0-9]{19}$"},
    },
}


def metrics() -> set[str]:
    assert telemetry.SESSIONS_LIVE is not None, "its import declares them"
    return {sample.name for family in REGISTRY.collect() for sample in family.samples} | {
        f"{family.name}{ending}" for family in REGISTRY.collect() for ending in ("_total", "_bucket", "")
    }


@pytest.mark.parametrize("query", QUERIES)
def test_every_query_asks_for_a_metric_and_an_event_there_is(query: str) -> None:
    asked = set(re.findall(r"\b((?:farlab|process)_\w+)", query))
    assert asked <= metrics()
    events = {name for names in re.findall(r'event=~?"([\w|]+)"', query) for name in names.split("|")}
    assert events <= {each.__name__ for each in AnySessionEvent.__args__}  # type: ignore[attr-defined]
    assert set(re.findall(r'outcome="(\w+)"', query)) <= OUTCOMES


def test_our_metrics_are_named_by_convention_and_no_label_grows_with_users() -> None:
    assert telemetry.HANDLED is not None, "its import declares them"
    ours = [family for family in REGISTRY.collect() if family.name.startswith("farlab_")]
    assert len(ours) >= 10
    units = {"counter": "", "histogram": "_seconds", "gauge": ("_messages", "_live")}
    for family in ours:
        assert re.fullmatch(r"farlab_[a-z]+(_[a-z]+)*", family.name)
        assert family.name.endswith(units[family.type])
        assert family.documentation[0].isupper()
    # Of these there are as many as there are types, ends of a handling, kinds of errors and streams.
    labels = {label for family in ours for sample in family.samples for label in sample.labels}
    assert labels <= {"event", "outcome", "reason", "stream", "le"}


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert.name)
def test_every_alert_has_its_runbook(alert: Alert) -> None:
    headings = re.findall(r"^## (.+)$", (ROOT / RUNBOOKS).read_text(), re.MULTILINE)
    assert alert.name in headings
    assert alert.runbook == f"{RUNBOOKS}#{alert.name.lower()}"
    assert f"alert: {alert.name}\n" in rules()
    assert json.dumps(alert.expression) in rules()


def test_no_runbook_is_of_an_alert_that_is_gone() -> None:
    headings = re.findall(r"^## (.+)$", (ROOT / RUNBOOKS).read_text(), re.MULTILINE)
    assert headings == [alert.name for alert in ALERTS]


def test_panels_stand_side_by_side_and_none_on_another(tmp_path: Path) -> None:
    panels = dashboard()["panels"]
    places = {(each["gridPos"]["x"], each["gridPos"]["y"]) for each in panels}
    assert len(places) == len(panels) == len({each["id"] for each in panels})
    done = CliRunner().invoke(app, ["monitoring", "--to", str(tmp_path / "m")])
    assert done.exit_code == 0
    assert json.loads((tmp_path / "m" / "farlab.dashboard.json").read_text()) == dashboard()
    assert (tmp_path / "m" / "farlab.rules.yml").read_text() == rules()


def spans(made: dict[str, Any]) -> list[dict[str, Any]]:
    return [span for each in made["resourceSpans"] for scope in each["scopeSpans"] for span in scope["spans"]]


def test_a_trace_has_the_ids_of_the_headers_and_one_root() -> None:
    story = Story()
    history = recorded(story.requested(), story.admitted(), story.created(), story.submitted(), story.ended())
    told = {each["spanId"]: each for each in spans(trace(history))}
    for each in history:
        _, trace_id, span_id, _ = cloudevents_headers(each.message)["traceparent"].split("-")
        jsonschema.validate(told[span_id], SPAN)
        assert told[span_id]["traceId"] == trace_id
        if each.message.cause:
            assert told[span_id]["parentSpanId"] == each.message.cause[:16]
    assert [each["name"] for each in told.values() if "parentSpanId" not in each] == ["start-requested"]
    root = told[history[0].message.id[:16]]
    assert int(root["endTimeUnixNano"]) - int(root["startTimeUnixNano"]) == 4 * 10**9
    created = told[history[2].message.id[:16]]
    assert int(created["endTimeUnixNano"]) - int(created["startTimeUnixNano"]) == 10**9
    assert "ada" not in json.dumps(trace(history))


def test_a_beginning_that_is_not_in_the_log_any_more_still_makes_one_trace() -> None:
    story = Story()
    told = spans(trace(recorded(story.created(), story.submitted(), first=9)))
    assert {each.get("parentSpanId", "") for each in told} == {"", told[0]["spanId"]}
    assert told[0]["status"]["message"] == "refused by the state of its session"


async def test_a_trace_is_sent_to_a_collector_and_one_that_refuses_is_told() -> None:
    got: list[dict[str, Any]] = []

    async def take(request: web.Request) -> web.Response:
        got.append(await request.json())
        return web.Response(status=200 if len(got) == 1 else 400)

    collector = web.Application()
    collector.add_routes([web.post("/v1/traces", take)])
    runner = web.AppRunner(collector)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1/traces"
    made = trace(recorded(Story().requested()))
    await _send(url, made)
    assert got == [made]
    with pytest.raises(TransientError, match="answered 400"):
        await _send(url, made)
    await runner.cleanup()
    with pytest.raises(TransientError, match="is a collector running there"):
        await _send(url, made)
