"""`farlab quota`: limits and use, and setting a limit."""

from __future__ import annotations

from typing import Annotated

import typer

from schemas.acts import LimitRequested
from schemas.base import SystemName
from schemas.quota import LimitOf
from services._runtime.connection import Broker
from services._runtime.service import stamp_of
from services._runtime.settings import Configuration
from services.operator_cli.acts.append import Operator
from services.operator_cli.acts.consent import Consent, agreed, operator
from services.operator_cli.acts.quota import checked, limit_value, preview, read, said
from services.operator_cli.commands.context import ConfigOption, DryRunOption, JsonOption, YesOption, with_broker
from services.operator_cli.output import console, fail, print_json, print_table

app = typer.Typer(help="Show quotas, and set their limits.", no_args_is_help=True)


@app.command()
def show(
    vo: Annotated[str, typer.Option(help="only this virtual organisation")] = "",
    system: Annotated[str, typer.Option(help="only this system")] = "",
    user: Annotated[str, typer.Option(help="only what this user uses")] = "",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show every quota: its limits, what is used, and by whom."""

    async def work(broker: Broker, here: Configuration) -> int:
        found = [
            each
            for each in await read(broker.log, here.subjects, here)
            if vo in ("", each.vo)
            and system in ("", each.system)
            and (not user or any(use.user == user for use in each.users))
        ]
        if as_json:
            print_json(found)
            return 0
        rows = [
            (
                each.vo,
                each.system,
                f"{each.resource} a {each.period}" if each.period else each.resource,
                said(each.resource, each.used),
                said(each.resource, each.limit),
                said(each.resource, each.per_user),
                ", ".join(f"{use.user} {said(each.resource, use.used)}" for use in each.users[:6]),
                each.set_by,
            )
            for each in found
        ]
        heads = ("vo", "system", "resource", "used", "limit", "each user", "by", "limit set by")
        print_table(f"{len(rows)} quotas", heads, rows)
        return 0

    with_broker(config, work)


@app.command("set")
def set_limit(
    vo: Annotated[str, typer.Argument(help="virtual organisation; everybody is in `default`")],
    system: Annotated[str, typer.Argument(help="name of the system")],
    resource: Annotated[str, typer.Argument(help="such as sessions, gpus or core-seconds")],
    limit: Annotated[str, typer.Argument(help="a number, 64GiB, 200h, `unlimited`, or `configured`")],
    reason: Annotated[str, typer.Option(help="why; it stands in the log")],
    each_user: Annotated[bool, typer.Option("--each-user", help="the limit of each user, and not of all")] = False,
    config: ConfigOption = None,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
) -> None:
    """Set a limit, at once and over the configured one; `configured` takes it back."""

    async def work(broker: Broker, here: Configuration) -> int:
        key, value = checked(here, vo, system, resource), limit_value(resource, limit)
        of: LimitOf = "each-user" if each_user else "all"
        there = [each for each in await read(broker.log, here.subjects, here) if (each.vo, each.system) == key[:2]]
        now = next((each for each in there if each.resource == key.resource), None)
        if not agreed(Consent(yes=yes, dry_run=dry_run), "Set this limit?", preview(now, key, of, value)):
            return 0
        hand = Operator(broker.log, here.subjects, stamp_of(here, "operator-cli"))
        await hand.act(
            LimitRequested(
                service="accounts",
                by=operator(),
                reason=reason,
                vo=key.vo,
                system=SystemName(key.system),
                resource=key.resource,
                of=of,
                value=value,
            )
        )
        console.print("The accounts service is asked; `farlab quota show` tells when it holds.", markup=False)
        return 0

    if not reason.strip():
        fail("--reason is empty; say why, for whoever reads the log")
    with_broker(config, work)
