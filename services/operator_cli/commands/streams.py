"""`farlab streams`: the streams and buckets an installation needs, compared with what the server has, and applied."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import typer

from services._runtime import topology
from services._runtime.connection import Broker, connect
from services._runtime.errors import TransientError
from services._runtime.settings import Configuration
from services._runtime.topology import Difference
from services.operator_cli.acts.consent import Consent, agreed
from services.operator_cli.commands.context import (
    ConfigOption,
    DryRunOption,
    JsonOption,
    YesOption,
    configuration_at,
    run,
)
from services.operator_cli.output import console, print_json, print_table

app = typer.Typer(help="Streams and buckets on the NATS server.", no_args_is_help=True)


@app.command()
def check(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Say how the server's streams differ from what the configuration asks for. Exit code 1 where they do."""

    async def work(broker: Broker, here: Configuration) -> int:
        found = await topology.compare(broker.log.js, here.subjects, here.shared.retention)
        if as_json:
            print_json(found)
        elif found:
            rows = [(each.stream, each.setting, str(each.wanted), str(each.found)) for each in found]
            print_table(f"{len(found)} differences", ("stream", "setting", "wanted", "found"), rows)
        else:
            console.print("streams and buckets are as they should be", markup=False)
        return 1 if found else 0

    _with_server(config, work)


@app.command()
def apply(config: ConfigOption = None, yes: YesOption = False, dry_run: DryRunOption = False) -> None:
    """Create what is missing and change what differs. No message is removed but by limits that shrink."""

    async def work(broker: Broker, here: Configuration) -> int:
        wanted = (broker.log.js, here.subjects, here.shared.retention)
        found = await topology.compare(*wanted)
        if not found:
            console.print("streams and buckets are as they should be", markup=False)
        elif agreed(Consent(yes=yes, dry_run=dry_run), "Change the server so?", _words(found)):
            try:
                await topology.apply(*wanted)
            except topology.RefusedError as error:
                raise TransientError(f"the server refused: {error}; a stream's storage can only be set anew") from None
            console.print(f"{len(found)} differences are closed", markup=False)
        return 0

    _with_server(config, work)


def _words(found: Sequence[Difference]) -> list[str]:
    return [
        f"{each.stream}: create it"
        if each.setting == topology.MISSING
        else f"{each.stream}: {each.setting} from {each.found} to {each.wanted}"
        for each in found
    ]


def _with_server(config: ConfigOption, act: Callable[[Broker, Configuration], Coroutine[Any, Any, int]]) -> None:
    async def work() -> int:
        configuration = configuration_at(config)
        broker = await connect(configuration, "operator-cli")
        try:
            return await act(broker, configuration)
        finally:
            await broker.close()

    run(work)
