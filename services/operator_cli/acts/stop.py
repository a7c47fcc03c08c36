"""`farlab stop` and `cancel`: asks for the end of sessions, in the log, as everybody does. Ends nothing itself."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import msgspec

from schemas.base import SessionId
from schemas.lifecycle import Ended, IllegalEventError, evolve
from schemas.session import StopRequested
from schemas.subjects import Subjects
from services._runtime.configuration import ConfigurationError
from services._runtime.connection import Broker
from services._runtime.identity import Stamp
from services._runtime.log import ConflictError, Log
from services._runtime.service import stamp_of
from services._runtime.settings import Configuration
from services.operator_cli.acts.consent import Consent, agreed, operator
from services.operator_cli.histories import LogHistories
from services.operator_cli.output import console, telling
from services.operator_cli.story.history import History, find, first_event, state_of
from services.operator_cli.story.row import Row, Wanted, row, rows

BEING_STARTED = ("requested", "waiting", "admitted", "created", "submitted", "listening", "reachable")
"""The states of a start that `cancel` takes back: nobody is in yet."""


async def request_stop(log: Log, subjects: Subjects, stamp: Stamp, session: SessionId, reason: str) -> str:
    """Asks for a session's end in the log. Returns what became of it, in words."""
    scope = subjects.session(session)
    history = await log.history("SESSIONS", scope)
    while True:
        first = first_event(history)
        state = state_of(history)
        stop = StopRequested(hub=first.hub, system=first.system, session=session, by=operator(), reason=reason)
        try:
            evolve(state, stop)
        except IllegalEventError:
            return "it has ended already" if isinstance(state, Ended) else "it is being stopped already"
        after = history[-1].sequence
        stamped = stamp(stop, after=after, cause=None)
        try:
            await log.append("SESSIONS", subjects.session_event(stamped), stamped, scope=scope, after=after)
        except ConflictError as conflict:
            history = list(conflict.history)
            continue
        return "its stop is requested"


def chosen(
    histories: Sequence[History], named: Sequence[str], wanted: Wanted, now: datetime, *, starts_only: bool
) -> list[Row]:
    """The sessions an operator named, or all live ones that the filters take. Pure.

    Raises ConfigurationError where there is neither a name nor a filter, NoSuchSessionError for a wrong name.
    """
    if named:
        found = [each for name in named if (each := row(find(histories, name))) is not None]
    elif wanted == Wanted():
        raise ConfigurationError("which sessions? name them, or say which with --user, --system, --vo, --state")
    else:
        found = rows(histories, msgspec.structs.replace(wanted, live=True), now)
    if not starts_only:
        return found
    return [each for each in found if each.state.partition(" ")[0] in BEING_STARTED]


async def ask_to_stop(
    broker: Broker,
    configuration: Configuration,
    named: Sequence[str],
    wanted: Wanted,
    reason: str,
    consent: Consent,
    *,
    starts_only: bool = False,
) -> int:
    """Stops sessions, after a question where they were not named one by one."""
    histories = await LogHistories(broker.log, configuration.subjects).all(system=wanted.system or "*")
    found = chosen(histories, named, wanted, datetime.now(UTC), starts_only=starts_only)
    if not found:
        console.print("There is no such session.", markup=False)
        return 0
    if not named or consent.dry_run or len(found) > 1:
        preview = [f"{each.session} {each.user}/{each.server_name} on {each.system}, {each.state}" for each in found]
        if not agreed(consent, f"Stop {len(found)} sessions?", preview):
            return 0
    stamp = stamp_of(configuration, "operator-cli")
    told: list[str] = []
    async with telling("stops requested", lambda: len(told)):
        for each in found:
            said = await request_stop(broker.log, configuration.subjects, stamp, each.session, reason)
            told.append(f"{each.session}: {said}")
    for line in told:
        console.print(line, markup=False, highlight=False)
    return 0
