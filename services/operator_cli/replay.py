"""What `farlab replay`, `export` and `import` do with histories. Change no log."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from schemas.base import event_name, message_type
from services._runtime.configuration import ConfigurationError
from services._runtime.connection import Broker
from services._runtime.log import Recorded
from services._runtime.settings import Configuration
from services.accounts import decide as accounts
from services.cloud_launcher import decide as cloud_launcher
from services.hpc_launcher import decide as hpc_launcher
from services.operator_cli import bundle
from services.operator_cli.histories import Histories
from services.operator_cli.output import console, one_line, print_json, print_table
from services.operator_cli.story.decisions import decisions, line
from services.operator_cli.story.history import History, Moment, find, first_event, moments, state_name
from services.operator_cli.story.rebuild import Deviation, access_deviations, access_records, quota_deviations
from services.operator_cli.story.redecide import Decider, Difference, decider_of, differences
from services.operator_cli.whole_log import Sessions
from services.tunneler import decide as tunneler

LONGEST_PAUSE_SECONDS = 5.0
"""A replay at some speed waits no longer than this between two events."""


def deciders() -> dict[str, Decider]:
    """Today's deciders, by service."""
    return {
        "accounts": decider_of(accounts),
        "hpc-launcher": decider_of(hpc_launcher),
        "cloud-launcher": decider_of(cloud_launcher),
        "tunneler": decider_of(tunneler),
    }


async def step_through(
    source: Histories, wanted: str, *, to: str, speed: float, with_state: bool, as_json: bool
) -> int:
    """`farlab replay SESSION`: one event after the other, with the state each leads to."""
    told = _until(list(moments(find(await source.all(), wanted))), to)
    before: datetime | None = None
    for moment in told:
        if speed > 0 and before is not None:
            seconds = (moment.event.at - before).total_seconds() / speed
            await asyncio.sleep(min(max(seconds, 0.0), LONGEST_PAUSE_SECONDS))
        before = moment.event.at
        _print_moment(moment, with_state=with_state, as_json=as_json)
    return 0


def _until(told: list[Moment], to: str) -> list[Moment]:
    """The events up to a sequence or the first of a type. Raises ConfigurationError when there is no such event."""
    if not to:
        return told
    for index, moment in enumerate(told):
        if to in (str(moment.sequence), event_name(moment.event), message_type(moment.event)):
            return told[: index + 1]
    known = ", ".join(dict.fromkeys(event_name(each.event) for each in told))
    raise ConfigurationError(f"--to {to}: the session has no such event; it has {known}")


def _print_moment(moment: Moment, *, with_state: bool, as_json: bool) -> None:
    name = state_name(moment.after) if moment.legal else "(ignored)"
    if as_json:
        state: dict[str, Any] = {"state": name}
        if with_state:
            state["fields"] = _fields(moment)
        print_json({"sequence": moment.sequence, "event": msgspec.to_builtins(moment.event), **state})
        return
    when = moment.event.at.strftime("%H:%M:%S.%f")[:-3]
    line = f"{when} {moment.sequence:>8} {event_name(moment.event):<20} -> {name}"
    console.print(line, markup=False, highlight=False, soft_wrap=True)
    if with_state:
        for field, value in _fields(moment).items():
            console.print(f"{'':>23}{field}: {value}", markup=False, highlight=False, soft_wrap=True)


def _fields(moment: Moment) -> dict[str, Any]:
    return {name: msgspec.to_builtins(getattr(moment.after, name)) for name in moment.after.__struct_fields__}


async def decide_again(source: Histories, wanted: Sequence[str], *, as_json: bool) -> int:
    """`farlab replay --decide`: where today's deciders part from the record. 1 when they do anywhere."""
    histories = await source.all()
    chosen: Sequence[History] = [find(histories, each) for each in wanted] if wanted else histories
    today = deciders()
    found = {first_event(history).session: differences(history, today) for history in chosen}
    parted = {session: each for session, each in found.items() if each}
    if as_json:
        print_json({"sessions": len(found), "differences": parted})
    else:
        _print_differences(len(found), parted)
    return 1 if parted else 0


def _print_differences(sessions: int, parted: dict[Any, list[Difference]]) -> None:
    if not parted:
        console.print(f"{sessions} sessions: today's deciders say what was recorded.", markup=False, highlight=False)
        return
    print_table(
        f"today's deciders part from the record in {len(parted)} of {sessions} sessions",
        ("session", "service", "at event", "in state", "recorded", "today"),
        [
            (session, each.service, f"{each.sequence} {each.event}", each.state, each.recorded, each.today)
            for session, several in parted.items()
            for each in several
        ],
    )


async def rebuild(broker: Broker, configuration: Configuration, since: datetime | None, *, as_json: bool) -> int:
    """`farlab replay --all`: every read model made anew from the log. 1 when a live one differs.

    `since` leaves sessions alone that had no event from then on; access and quotas need the whole log and get it.
    """
    begun, subjects = time.perf_counter(), configuration.subjects
    sessions = Sessions()
    await sessions.read(broker.log, subjects)
    recent = sum(since is None or last >= since for last in sessions.last.values())
    changes: list[Recorded] = []
    for stream, family in (("ACCESS", "access"), ("QUOTAS", "quota")):
        following = await broker.log.follow(stream, [subjects.family(family)], changes.append)  # type: ignore[arg-type]
        await following.close()
    live = {key: entry[0] for key in await broker.access.keys() if (entry := await broker.access.get(key)) is not None}
    found = access_deviations(access_records(changes), live) + quota_deviations(changes, sessions.states)
    ignored = [
        Deviation(model="sessions", what=each.session, live=each.event, rebuilt="ignored: illegal")
        for each in sessions.ignored
        if since is None or sessions.last[each.session] >= since
    ]
    events = sessions.events + len(changes)
    seconds = time.perf_counter() - begun
    if as_json:
        print_json({"sessions": recent, "events": events, "deviations": found, "ignored": ignored})
    else:
        console.print(f"{events} events read in {seconds:.1f} s, {recent} sessions folded", markup=False)
        verdict = f"{len(found)} deviations" if found else "the live read models are what the log makes of them"
        console.print(verdict, markup=False, highlight=False)
        if found or ignored:
            rows = [(each.model, each.what, each.live, each.rebuilt) for each in [*found, *ignored]]
            print_table("what differs", ("model", "what", "live", "by the log"), rows)
    return 1 if found else 0


async def tell_decisions(source: Histories, wanted: str, *, as_json: bool) -> int:
    """`farlab decisions`: what this build's deciders say at each event."""
    histories = await source.all()
    chosen: Sequence[History] = [find(histories, wanted)] if wanted else histories
    found = [each for history in chosen for each in decisions(history, deciders())]
    if as_json:
        print_json(found)
        return 0
    for each in found:
        console.print(one_line(line(each)), markup=False, highlight=False, soft_wrap=True)
    return 0


async def export(source: Histories, wanted: Sequence[str], out: Path, made_by: str) -> int:
    """`farlab export`: the sessions meant, redacted, into a file of their own."""
    histories = await source.all()
    chosen = [find(histories, each) for each in wanted]
    content = bundle.exported(chosen, made_at=datetime.now(UTC), made_by=made_by)
    bundle.write(out, content)
    console.print(
        f"{out}: {len(chosen)} sessions, {len(content)} bytes, names replaced by pseudonyms",
        markup=False,
        soft_wrap=True,
    )
    return 0


def take_in(file: Path, folder: Path) -> int:
    """`farlab import`: checks a bundle and keeps it under its name, so that `--bundle NAME` finds it."""
    read = bundle.read(file)
    name = file.name.removesuffix(bundle.SUFFIX)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    shutil.copyfile(file, folder / f"{name}{bundle.SUFFIX}")
    left_out = f"; {read.unreadable} events of types this build does not know are left out" if read.unreadable else ""
    console.print(
        f"{name}: {len(read.histories)} sessions, {read.header.events} events, made "
        f"{read.header.made_at:%Y-%m-%d %H:%M} UTC by {read.header.made_by}{left_out}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    for history in read.histories:
        console.print(f"  farlab timeline {first_event(history).session} --bundle {name}", markup=False, soft_wrap=True)
    return 0
