"""Alert rules for Prometheus, each with a runbook in docs/operators/runbooks.md. Pure; fires nothing."""

from __future__ import annotations

import json

import msgspec

RUNBOOKS = "docs/operators/runbooks.md"


class Alert(msgspec.Struct, frozen=True, kw_only=True):
    """One rule: what holds for how long, how urgent it is, and in a sentence what is wrong."""

    name: str
    expression: str
    minutes: int
    severity: str
    summary: str

    @property
    def runbook(self) -> str:
        """Where the runbook is."""
        return f"{RUNBOOKS}#{self.name.lower()}"


ALERTS = (
    Alert(
        name="FarlabServiceDown",
        expression='up{job=~"farlab.*"} == 0',
        minutes=2,
        severity="page",
        summary="{{ $labels.job }} at {{ $labels.instance }} does not answer.",
    ),
    Alert(
        name="FarlabDeadLetters",
        expression='sum by (job, event) (increase(farlab_messages_handled_total{outcome="buried"}[15m])) > 0',
        minutes=0,
        severity="ticket",
        summary="{{ $labels.job }} gave up on {{ $labels.event }} messages.",
    ),
    Alert(
        name="FarlabUnreadableMessages",
        expression="sum by (job, reason) (increase(farlab_unreadable_messages_total[15m])) > 0",
        minutes=0,
        severity="ticket",
        summary="{{ $labels.job }} meets messages it cannot read: {{ $labels.reason }}.",
    ),
    Alert(
        name="FarlabKeepsRetrying",
        expression='sum by (job) (rate(farlab_messages_handled_total{outcome="retried"}[5m])) > 1',
        minutes=10,
        severity="ticket",
        summary="{{ $labels.job }} tries again and again: something it needs is away.",
    ),
    Alert(
        name="FarlabHandlingSlow",
        expression=(
            "histogram_quantile(0.99, sum by (job, le) (rate(farlab_message_handling_seconds_bucket[10m]))) > 10"
        ),
        minutes=10,
        severity="ticket",
        summary="One in a hundred messages takes {{ $labels.job }} longer than 10 s.",
    ),
    Alert(
        name="FarlabConsumerBehind",
        expression="max by (job, stream) (farlab_consumer_pending_messages) > 1000",
        minutes=5,
        severity="ticket",
        summary="{{ $labels.job }} is {{ $value }} messages of {{ $labels.stream }} behind the log.",
    ),
    Alert(
        name="FarlabStartsRejected",
        expression=(
            'sum(increase(farlab_events_appended_total{event="StartRejected"}[30m])) > 5 and '
            'sum(increase(farlab_events_appended_total{event="StartRejected"}[30m])) > '
            'sum(increase(farlab_events_appended_total{event="StartAdmitted"}[30m]))'
        ),
        minutes=0,
        severity="ticket",
        summary="More starts are refused than let in.",
    ),
    Alert(
        name="FarlabNoServerListens",
        expression=(
            'sum(increase(farlab_events_appended_total{event="JobSubmitted"}[2h])) > 5 unless '
            'sum(increase(farlab_events_appended_total{event="ServerListening"}[2h])) > 0'
        ),
        minutes=0,
        severity="page",
        summary="Jobs are handed over for two hours, and no server has come up.",
    ),
    Alert(
        name="FarlabTunnelsBreak",
        expression='sum(increase(farlab_events_appended_total{event="TunnelLost"}[10m])) > 10',
        minutes=0,
        severity="page",
        summary="Tunnels to users' servers break.",
    ),
)


def rules() -> str:
    """The rules as Prometheus reads them."""
    lines = ["# Written by: farlab monitoring", "groups:", "  - name: farlab", "    rules:"]
    for alert in ALERTS:
        lines += [
            f"      - alert: {alert.name}",
            f"        expr: {json.dumps(alert.expression)}",
            f"        for: {alert.minutes}m",
            f"        labels: {{severity: {alert.severity}}}",
            "        annotations:",
            f"          summary: {json.dumps(alert.summary)}",
            f"          runbook: {json.dumps(alert.runbook)}",
        ]
    return "\n".join(lines) + "\n"
