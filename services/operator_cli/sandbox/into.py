"""`farlab replay --into`: sessions previewed, said again in a sandbox, and compared. Asks before it writes."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from schemas.base import SystemName, UserName
from schemas.session import HpcPlace
from services._runtime.configuration import ConfigurationError
from services._runtime.connection import connect
from services._runtime.settings import Configuration
from services.operator_cli.acts.consent import Consent, agreed
from services.operator_cli.histories import Histories
from services.operator_cli.output import console, errors, print_json, print_table
from services.operator_cli.sandbox.mapping import Mapping
from services.operator_cli.sandbox.play import Played, Player, Script, preview, scripts
from services.operator_cli.sandbox.target import Target, target_at
from services.operator_cli.story.history import find

PATIENCE_SECONDS = 120.0
"""How long a sandbox may take to come as far as a session had come, such as through its queue."""


class Into(msgspec.Struct, frozen=True, kw_only=True):
    """Where and how sessions are replayed, as the operator said it."""

    into: str
    system: str = ""
    user: str = ""
    place: str = ""
    beside: Sequence[str] = ()
    speed: float = 0.0
    as_recorded: bool = False
    patience_seconds: float = PATIENCE_SECONDS


async def replay_into(source: Histories, named: Sequence[str], asked: Into, consent: Consent, *, as_json: bool) -> int:
    """Replays sessions; 1 when one ended otherwise than it was recorded. Raises ConfigurationError."""
    configuration, mapping = target_at(asked.into), _mapping(asked)
    histories = await source.all()
    wanted = scripts([find(histories, each) for each in dict.fromkeys(named)] if named else histories)
    if not wanted:
        raise ConfigurationError("there is no session with its beginning in the log; `farlab sessions` lists them")
    if not asked.as_recorded:
        _emulated(configuration, mapping, wanted)
    broker = await connect(configuration, "operator-cli")
    try:
        target = Target(configuration, broker)
        own = {script.request.id for script in wanted}
        await target.check(own, asked.beside, answering=not asked.as_recorded)
        question = f"Say {len(wanted)} sessions again in {', '.join(configuration.shared.nats.servers)}?"
        if not agreed(consent, question, preview(wanted, mapping, as_recorded=asked.as_recorded)):
            return 0
        await target.open()
        try:
            return await _play(target, mapping, asked, wanted, as_json=as_json)
        finally:
            await target.close()
    finally:
        await broker.close()


async def _play(target: Target, mapping: Mapping, asked: Into, wanted: Sequence[Script], *, as_json: bool) -> int:
    player = Player(target, mapping, speed=asked.speed, patience_seconds=asked.patience_seconds)
    over = 0

    def done(each: Played) -> None:
        nonlocal over
        over += 1
        if not as_json and len(wanted) > 1:
            errors.print(
                f"{over} of {len(wanted)}: {each.session} is {each.outcome} here", markup=False, soft_wrap=True
            )

    played = await player.all(wanted, done, as_recorded=asked.as_recorded)
    parted = [each for each in played if each.recorded != each.outcome]
    if as_json:
        print_json({"sessions": played, "parted": len(parted)})
    else:
        rows = [
            (each.session, each.here, each.recorded, each.outcome, each.parted or "the same way") for each in played
        ]
        print_table(f"{len(played)} sessions replayed", ("session", "here", "recorded", "now", "way"), rows)
        console.print(f"{len(parted)} of them came out otherwise", markup=False, highlight=False)
    return 1 if parted else 0


def _emulated(configuration: Configuration, mapping: Mapping, wanted: Sequence[Script]) -> None:
    """Raises ConfigurationError where a job would be started at a real site, or at none."""
    if not configuration.catalogue:
        return  # no more than an address is known; what runs there was started for trying, or refuses us
    for name in sorted({mapping.system or script.request.system for script in wanted}):
        system = configuration.catalogue.get(name)
        if system is None:
            known = ", ".join(configuration.catalogue)
            raise ConfigurationError(f"the target has no system {name!r}; say one of its own with --as-system: {known}")
        if system.emulated is None:
            raise ConfigurationError(
                f"{name} of the target is a real site, and jobs would start there; replay onto an emulated one with "
                "--as-system, or put the events there as they were with --as-recorded"
            )


def _mapping(asked: Into) -> Mapping:
    place: HpcPlace | None = None
    if asked.place:
        parts = asked.place.split("/")
        if len(parts) != 3 or not all(parts):
            raise ConfigurationError(f"--as-place {asked.place}: write ACCOUNT/PROJECT/PARTITION of the target")
        place = HpcPlace(account=parts[0], project=parts[1], partition=parts[2])
    return Mapping(
        system=SystemName(asked.system) if asked.system else None,
        user=UserName(asked.user) if asked.user else None,
        place=place,
    )
