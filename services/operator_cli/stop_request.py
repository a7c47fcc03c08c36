"""Asks for a session's end, in the log, as everybody does. Ends nothing itself."""

from __future__ import annotations

import getpass

from schemas.base import SessionId
from schemas.lifecycle import Ended, IllegalEventError, evolve
from schemas.session import StopRequested
from schemas.subjects import Subjects
from services._runtime.connection import Broker
from services._runtime.identity import Stamp
from services._runtime.log import ConflictError, Log
from services._runtime.service import stamp_of
from services._runtime.settings import Configuration
from services.operator_cli.histories import LogHistories
from services.operator_cli.output import console
from services.operator_cli.story.history import find, first_event, state_of


async def request_stop(log: Log, subjects: Subjects, stamp: Stamp, session: SessionId, reason: str) -> str:
    """Asks for a session's end in the log. Returns what became of it, in words."""
    scope = subjects.session(session)
    history = await log.history("SESSIONS", scope)
    while True:
        first = first_event(history)
        state = state_of(history)
        stop = StopRequested(
            hub=first.hub, system=first.system, session=session, by=f"operator {getpass.getuser()}", reason=reason
        )
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


async def ask_to_stop(broker: Broker, configuration: Configuration, wanted: str, reason: str) -> int:
    """`farlab stop`."""
    histories = await LogHistories(broker.log, configuration.subjects).all()
    session = first_event(find(histories, wanted)).session
    stamp = stamp_of(configuration, "operator-cli")
    said = await request_stop(broker.log, configuration.subjects, stamp, session, reason)
    console.print(f"{session}: {said}", markup=False, highlight=False)
    return 0
