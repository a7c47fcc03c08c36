"""Alert rules as Prometheus itself reads them: its own tool lints rules and metrics, and fires each alert alone."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from prometheus_client import generate_latest

from services._runtime import telemetry
from services.operator_cli.monitoring.alerts import ALERTS, Alert, rules

PROMTOOL = shutil.which("promtool")
pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(
        PROMTOOL is None and not os.environ.get("FARLAB_NO_SKIPS"),
        reason="promtool is not installed; `.ci/run` takes it from Debian's package prometheus",
    ),
]
MINUTES = 180
JOB = 'job="farlab-accounts",instance="a:1"'
HANDLED = f'farlab_messages_handled_total{{{JOB},event="JobCreated",outcome="%s"}}'
APPENDED = f'farlab_events_appended_total{{{JOB},event="%s"}}'
BUCKET = f'farlab_message_handling_seconds_bucket{{{JOB},event="JobCreated",le="%s"}}'
Series = dict[str, str]
WORLDS: dict[str, tuple[Series, Series]] = {
    "FarlabServiceDown": ({f"up{{{JOB}}}": "0x180"}, {f"up{{{JOB}}}": "1x180"}),
    "FarlabDeadLetters": ({HANDLED % "buried": "0+1x180"}, {HANDLED % "buried": "3x180"}),
    "FarlabUnreadableMessages": (
        {f'farlab_unreadable_messages_total{{{JOB},reason="UnknownTypeError"}}': "0+1x180"},
        {f'farlab_unreadable_messages_total{{{JOB},reason="UnknownTypeError"}}': "5x180"},
    ),
    "FarlabKeepsRetrying": ({HANDLED % "retried": "0+120x180"}, {HANDLED % "retried": "0+6x180"}),
    "FarlabHandlingSlow": (
        {BUCKET % "10": "0+1x180", BUCKET % "30": "0+10x180", BUCKET % "+Inf": "0+10x180"},
        {BUCKET % "10": "0+10x180", BUCKET % "30": "0+10x180", BUCKET % "+Inf": "0+10x180"},
    ),
    "FarlabConsumerBehind": (
        {f'farlab_consumer_pending_messages{{{JOB},stream="SESSIONS"}}': "2000x180"},
        {f'farlab_consumer_pending_messages{{{JOB},stream="SESSIONS"}}': "20x180"},
    ),
    "FarlabStartsRejected": (
        {APPENDED % "StartRejected": "0+2x180", APPENDED % "StartAdmitted": "0+1x180"},
        {APPENDED % "StartRejected": "0+1x180", APPENDED % "StartAdmitted": "0+5x180"},
    ),
    "FarlabNoServerListens": (
        {APPENDED % "JobSubmitted": "0+1x180", APPENDED % "ServerListening": "7x180"},
        {APPENDED % "JobSubmitted": "0+1x180", APPENDED % "ServerListening": "0+1x180"},
    ),
    "FarlabTunnelsBreak": ({APPENDED % "TunnelLost": "0+5x180"}, {APPENDED % "TunnelLost": "9x180"}),
}
"""Per alert, series under which it fires, and such as it is silent under."""


def promtool(*words: str, given: bytes | None = None) -> None:
    assert PROMTOOL is not None, "promtool is missing; .ci/run installs it"
    done = subprocess.run([PROMTOOL, *words], input=given, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr).decode()


def test_the_rules_are_rules(tmp_path: Path) -> None:
    (tmp_path / "farlab.rules.yml").write_text(rules())
    promtool("check", "rules", str(tmp_path / "farlab.rules.yml"))


def test_metrics_are_named_by_convention() -> None:
    assert telemetry.HANDLED is not None, "its import declares them"
    told = generate_latest().decode().splitlines()
    ours = [line for line in told if line.removeprefix("# HELP ").removeprefix("# TYPE ").startswith("farlab_")]
    assert len(ours) > 20
    promtool("check", "metrics", given="\n".join([*ours, ""]).encode())


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert.name)
def test_each_alert_fires_when_it_should_and_is_silent_else(tmp_path: Path, alert: Alert) -> None:
    tests = [
        {
            "interval": "1m",
            "input_series": [{"series": name, "values": values} for name, values in series.items()],
            "promql_expr_test": [
                {
                    "expr": f"count({alert.expression})",
                    "eval_time": f"{MINUTES}m",
                    "exp_samples": [{"labels": "{}", "value": 1}] if fires else [],
                }
            ],
        }
        for series, fires in zip(WORLDS[alert.name], (True, False), strict=True)
    ]
    file = tmp_path / "test.yml"
    file.write_text(json.dumps({"rule_files": [], "evaluation_interval": "1m", "tests": tests}))
    promtool("test", "rules", str(file))
