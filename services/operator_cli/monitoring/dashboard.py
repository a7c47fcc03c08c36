"""A Grafana dashboard of an installation, as data. Pure; draws nothing."""

from __future__ import annotations

from typing import Any

import msgspec

WIDTH, HEIGHT = 12, 8


class Panel(msgspec.Struct, frozen=True, kw_only=True):
    """One graph: its title, its query, how a series is named, and the unit as Grafana names it."""

    title: str
    query: str
    legend: str
    unit: str = "short"


PANELS = (
    Panel(title="Live sessions", query="max(farlab_sessions_live)", legend="sessions"),
    Panel(
        title="Events a second",
        query="sum by (event) (rate(farlab_events_appended_total[$__rate_interval]))",
        legend="{{event}}",
        unit="ops",
    ),
    Panel(
        title="Starts: admitted, rejected, listening",
        query=(
            "sum by (event) (increase("
            'farlab_events_appended_total{event=~"StartAdmitted|StartRejected|ServerListening"}[15m]))'
        ),
        legend="{{event}}",
    ),
    Panel(
        title="From delivery to answer, p99",
        query=(
            "histogram_quantile(0.99, "
            "sum by (job, le) (rate(farlab_message_handling_seconds_bucket[$__rate_interval])))"
        ),
        legend="{{job}}",
        unit="s",
    ),
    Panel(
        title="Messages by outcome",
        query="sum by (job, outcome) (rate(farlab_messages_handled_total[$__rate_interval]))",
        legend="{{job}} {{outcome}}",
        unit="ops",
    ),
    Panel(
        title="Behind the log",
        query="max by (job, stream) (farlab_consumer_pending_messages)",
        legend="{{job}} {{stream}}",
    ),
    Panel(
        title="In hand, and come again",
        query=("sum by (job, stream) (farlab_consumer_in_hand_messages + farlab_consumer_redelivered_messages)"),
        legend="{{job}} {{stream}}",
    ),
    Panel(
        title="Refused by the state of their session",
        query="sum by (event) (increase(farlab_events_refused_total[15m]))",
        legend="{{event}}",
    ),
    Panel(
        title="Tunnels lost",
        query='sum(increase(farlab_events_appended_total{event="TunnelLost"}[15m]))',
        legend="lost",
    ),
    Panel(
        title="Unreadable messages",
        query="sum by (job, reason) (increase(farlab_unreadable_messages_total[15m]))",
        legend="{{job}} {{reason}}",
    ),
    Panel(title="Memory", query='process_resident_memory_bytes{job=~"farlab.*"}', legend="{{job}}", unit="bytes"),
    Panel(
        title="CPU",
        query='rate(process_cpu_seconds_total{job=~"farlab.*"}[$__rate_interval])',
        legend="{{job}}",
        unit="percentunit",
    ),
)


def dashboard() -> dict[str, Any]:
    """The dashboard, as Grafana imports it; it asks for the data source."""
    source = {"type": "prometheus", "uid": "${source}"}
    return {
        "title": "Farlab",
        "uid": "farlab",
        "tags": ["farlab"],
        "schemaVersion": 39,
        "time": {"from": "now-6h", "to": "now"},
        "refresh": "30s",
        "templating": {"list": [{"name": "source", "type": "datasource", "query": "prometheus", "label": "Source"}]},
        "panels": [
            {
                "id": number + 1,
                "type": "timeseries",
                "title": panel.title,
                "datasource": source,
                "gridPos": {
                    "w": WIDTH,
                    "h": HEIGHT,
                    "x": WIDTH * (number % 2),
                    "y": HEIGHT * (number // 2),
                },
                "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
                "targets": [{"refId": "A", "datasource": source, "expr": panel.query, "legendFormat": panel.legend}],
            }
            for number, panel in enumerate(PANELS)
        ],
    }
