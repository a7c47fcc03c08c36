"""`farlab dead-letters`: the messages services gave up on, and what to do about them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated

import msgspec
import typer

from services._runtime.connection import Broker
from services._runtime.service import stamp_of
from services._runtime.settings import Configuration
from services.operator_cli.acts import dead_letters
from services.operator_cli.acts.append import Operator
from services.operator_cli.acts.consent import Consent, agreed
from services.operator_cli.acts.dead_letters import OPEN, Filed
from services.operator_cli.commands.context import ConfigOption, DryRunOption, JsonOption, YesOption, with_broker
from services.operator_cli.output import console, one_line, print_json, print_table

app = typer.Typer(help="Messages that services gave up on.", no_args_is_help=True)

NumbersArgument = Annotated[list[int] | None, typer.Argument(help="numbers of dead letters")]
ReasonOption = Annotated[str, typer.Option(help="why")]
EveryOption = Annotated[bool, typer.Option("--all", help="every open one")]


@app.command("list")
def list_letters(
    config: ConfigOption = None,
    every: Annotated[bool, typer.Option("--all", help="also those that were retried or discarded")] = False,
    service: Annotated[str, typer.Option(help="only of this service")] = "",
    as_json: JsonOption = False,
) -> None:
    """List the open ones."""

    async def work(broker: Broker, here: Configuration) -> int:
        del here
        found = [
            each
            for each in await dead_letters.read(broker.log)
            if (every or each.state == OPEN) and service in ("", each.letter.service)
        ]
        if as_json:
            print_json([_plain(each) for each in found])
            return 0
        print_table(
            f"{len(found)} dead letters",
            ("number", "when", "service", "event", "session", "state", "why"),
            [
                (
                    str(each.letter.sequence),
                    each.letter.at[:19],
                    each.letter.service,
                    each.letter.event,
                    each.session,
                    each.state,
                    each.letter.reason[:160],
                )
                for each in found
            ],
        )
        return 0

    with_broker(config, work)


@app.command()
def show(
    number: Annotated[int, typer.Argument(help="number of a dead letter")],
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show one whole."""

    async def work(broker: Broker, here: Configuration) -> int:
        del here
        [each] = dead_letters.chosen(await dead_letters.read(broker.log), [number], every=False)
        said = _plain(each) | {"body": each.letter.body.decode(errors="replace")}
        if as_json:
            print_json(said)
            return 0
        for name, value in said.items():
            console.print(f"{name:<8} {one_line(str(value))}", markup=False, highlight=False, soft_wrap=True)
        return 0

    with_broker(config, work)


@app.command()
def retry(
    reason: ReasonOption,
    numbers: NumbersArgument = None,
    every: EveryOption = False,
    config: ConfigOption = None,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
) -> None:
    """Ask services to decide the letters' sessions anew."""
    _each(config, numbers or [], every, Consent(yes=yes, dry_run=dry_run), reason, "Try again?", dead_letters.retry)


@app.command()
def discard(
    reason: ReasonOption,
    numbers: NumbersArgument = None,
    every: EveryOption = False,
    config: ConfigOption = None,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
) -> None:
    """Say that nothing needs doing about them; they stay in the log."""
    _each(config, numbers or [], every, Consent(yes=yes, dry_run=dry_run), reason, "Discard?", dead_letters.discard)


def _each(
    config: ConfigOption,
    numbers: list[int],
    every: bool,
    consent: Consent,
    reason: str,
    question: str,
    do: Callable[[Operator, Filed, str], Awaitable[str]],
) -> None:
    async def work(broker: Broker, here: Configuration) -> int:
        found = dead_letters.chosen(await dead_letters.read(broker.log), numbers, every=every)
        preview = [
            f"{each.letter.sequence} {each.letter.service} {each.letter.event} {each.session} ({each.state}): "
            f"{one_line(each.letter.reason)[:120]}"
            for each in found
        ]
        if not found:
            console.print("There is no open dead letter.", markup=False)
        elif agreed(consent, question, preview):
            hand = Operator(broker.log, here.subjects, stamp_of(here, "operator-cli"))
            for each in found:
                said = await do(hand, each, reason)
                console.print(f"{each.letter.sequence}: {said}", markup=False, highlight=False, soft_wrap=True)
        return 0

    with_broker(config, work)


def _plain(each: Filed) -> dict[str, object]:
    letter = {name: value for name, value in msgspec.structs.asdict(each.letter).items() if name != "body"}
    return {**letter, "session": each.session, "state": each.state, "by": each.by, "because": each.reason}
