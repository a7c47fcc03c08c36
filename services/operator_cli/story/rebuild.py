"""Read models made anew from the log, held against the live ones. Pure: is given both, and writes neither."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from schemas.access import AccessChanged, AccessRecord
from schemas.base import SessionId, UserName
from schemas.lifecycle import Ended, NotStarted, SessionState
from schemas.quota import QuotaUpdated
from schemas.subjects import slug
from services._runtime.log import Recorded
from services.accounts.quotas import QuotaState, evolve


class Deviation(msgspec.Struct, frozen=True, kw_only=True):
    """One place where a live read model is not what the log makes of it."""

    model: str
    what: str
    live: str
    rebuilt: str


def access_records(changes: Iterable[Recorded]) -> dict[UserName, AccessRecord]:
    """Who may use what, by the log: the newest record of every user."""
    records: dict[UserName, AccessRecord] = {}
    for recorded in changes:
        if isinstance(event := recorded.message, AccessChanged):
            records[event.user] = event.record
    return records


def access_deviations(rebuilt: Mapping[UserName, AccessRecord], live: Mapping[str, bytes]) -> list[Deviation]:
    """Where the bucket `access` differs; `live` is by key, and keys with a dot are no records."""
    found = []
    for user, record in rebuilt.items():
        value = live.get(slug(user))
        if value is None:
            found.append(_access(user, "missing", "a record"))
        elif _record(value) != record:
            found.append(_access(user, "another record", "the record of its last access-changed"))
    known = {slug(user) for user in rebuilt}
    found += [_access(key, "a record", "nothing") for key in live if "." not in key and key not in known]
    return found


def _access(user: str, live: str, rebuilt: str) -> Deviation:
    return Deviation(model="access", what=user, live=live, rebuilt=rebuilt)


def _record(value: bytes) -> AccessRecord | None:
    try:
        return msgspec.json.decode(value, type=AccessRecord)
    except msgspec.MsgspecError:
        return None


def quota_deviations(changes: Iterable[Recorded], states: Mapping[SessionId, SessionState]) -> list[Deviation]:
    """Where a quota's last event says another use than its reservations make, or a session holds one past its end."""
    folded: dict[str, QuotaState] = {}
    said: dict[str, int] = {}
    for recorded in changes:
        if isinstance(event := recorded.message, QuotaUpdated):
            name = f"{event.resource} of {event.vo} on {event.system}"
            folded[name] = evolve(folded.get(name, QuotaState()), event)
            said[name] = event.used
    found = [
        Deviation(model="quotas", what=name, live=f"used {said[name]}", rebuilt=f"used {state.used}")
        for name, state in folded.items()
        if said[name] != state.used
    ]
    for name, state in folded.items():
        for session, share in state.shares.items():
            at = states.get(session, NotStarted())
            if isinstance(at, Ended | NotStarted):
                over = "has ended" if isinstance(at, Ended) else "is not in the log"
                held = f"{share.amount} held by {session}, which {over}"
                found.append(Deviation(model="quotas", what=name, live=held, rebuilt="released"))
    return found
