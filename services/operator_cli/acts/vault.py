"""`farlab vault`: the names of sealed secrets, and taking out those nobody needs. Opens none."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

import msgspec

from schemas.acts import SecretsPurged
from schemas.base import SessionId
from schemas.lifecycle import Ended, SessionState
from services._runtime.configuration import ConfigurationError
from services._runtime.log import Bucket
from services.operator_cli.acts.append import Operator
from services.operator_cli.acts.consent import operator

NAMES_IN_AN_ACT = 500
"""How many names one act records, so that it fits a message; more make more acts."""


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """The name of a sealed secret; `standing` says whether its session is live, ended or unknown to the log."""

    name: str
    recipient: str
    session: str
    standing: str


def entries(names: Iterable[str], states: Mapping[SessionId, SessionState]) -> list[Entry]:
    """What the names say, by the log. Pure."""
    return [_entry(name, states) for name in sorted(names)]


def _entry(name: str, states: Mapping[SessionId, SessionState]) -> Entry:
    session, _, recipient = name.rpartition(".")
    if len(session) != 26:
        return Entry(name=name, recipient=recipient, session="", standing="no session's")
    state = states.get(SessionId(session))
    standing = "unknown" if state is None else "ended" if isinstance(state, Ended) else "live"
    return Entry(name=name, recipient=recipient, session=session, standing=standing)


def chosen(found: Sequence[Entry], wanted: Collection[str], *, ended: bool) -> list[Entry]:
    """The entries an operator named, by name or session, or all of ended sessions. Raises ConfigurationError."""
    if ended:
        return [each for each in found if each.standing == "ended"]
    if not wanted:
        raise ConfigurationError("which secrets? name entries or sessions, or say --ended for those of ended sessions")
    for each in wanted:
        if not any(each in (entry.name, entry.session) for entry in found):
            raise ConfigurationError(f"the vault holds nothing named {each!r}; `farlab vault list` has the names")
    return [entry for entry in found if {entry.name, entry.session} & {*wanted}]


async def purge(hand: Operator, bucket: Bucket, found: Sequence[Entry], reason: str) -> None:
    """Takes entries out of the vault, for good; the log has their names, who and why, before the first is gone."""
    for begin in range(0, len(found), NAMES_IN_AN_ACT):
        part = found[begin : begin + NAMES_IN_AN_ACT]
        names = [each.name for each in part]
        await hand.act(SecretsPurged(service="operator-cli", by=operator(), reason=reason, names=names))
        for name in names:
            await bucket.delete(name)
