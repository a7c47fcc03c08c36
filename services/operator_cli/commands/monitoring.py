"""`farlab monitoring` and `trace`: what Prometheus, Grafana and a collector of traces are given."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import aiohttp
import msgspec
import typer

from services._runtime.errors import TransientError
from services.operator_cli.commands.context import BundleOption, ConfigOption, with_histories
from services.operator_cli.histories import Histories
from services.operator_cli.monitoring.alerts import ALERTS, rules
from services.operator_cli.monitoring.dashboard import PANELS, dashboard
from services.operator_cli.monitoring.trace import trace as trace_of
from services.operator_cli.output import console, fail, print_json
from services.operator_cli.story.history import find

app = typer.Typer()

PATIENCE_SECONDS = 10.0


@app.command()
def monitoring(to: Annotated[Path, typer.Option("--to", help="the folder to write into")]) -> None:
    """Write alert rules for Prometheus and a dashboard for Grafana."""
    files = {
        "farlab.rules.yml": rules().encode(),
        "farlab.dashboard.json": msgspec.json.format(msgspec.json.encode(dashboard()), indent=2) + b"\n",
    }
    try:
        to.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (to / name).write_bytes(content)
    except OSError as error:
        fail(f"{to}: cannot be written: {error.strerror}; name a folder of your own")
    said = f"{', '.join(files)} in {to}: {len(ALERTS)} alerts, {len(PANELS)} panels"
    console.print(said, markup=False, highlight=False, soft_wrap=True)


@app.command()
def trace(
    session: Annotated[str, typer.Argument(help="session id, part of one, or USER/SERVER")],
    to: Annotated[str, typer.Option("--to", help="OTLP over HTTP, such as http://127.0.0.1:4318/v1/traces")] = "",
    config: ConfigOption = None,
    bundle: BundleOption = "",
) -> None:
    """Print a session's OpenTelemetry trace, made from its log, or send it to a collector."""

    async def work(source: Histories) -> int:
        made = trace_of(find(await source.all(), session))
        if not to:
            print_json(made)
            return 0
        await _send(to, made)
        console.print(f"sent to {to}", markup=False, highlight=False, soft_wrap=True)
        return 0

    with_histories(config, bundle, work)


async def _send(url: str, made: dict[str, object]) -> None:
    limit = aiohttp.ClientTimeout(total=PATIENCE_SECONDS)
    try:
        async with aiohttp.ClientSession(timeout=limit) as http, http.post(url, json=made) as answer:
            if answer.status >= 300:
                raise TransientError(f"{url} answered {answer.status}; is it a collector's OTLP over HTTP?")
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        raise TransientError(f"{url} takes no traces ({error!r}); is a collector running there?") from None
