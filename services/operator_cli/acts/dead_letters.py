"""Dead letters: which wait for an operator, and what was done about each. A letter itself is never removed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from schemas.acts import Act, DeadLetterDiscarded, DeadLetterRetried
from schemas.subjects import SubjectError, Subjects
from services._runtime.configuration import ConfigurationError
from services._runtime.dead_letters import Letter, letters
from services._runtime.jetstream import JetStreamLog
from services._runtime.log import Recorded
from services.operator_cli.acts.append import Operator
from services.operator_cli.acts.consent import operator

OPEN = "open"


class Filed(msgspec.Struct, frozen=True, kw_only=True):
    """A dead letter and what became of it: `state` is open, retried or discarded."""

    letter: Letter
    session: str
    state: str
    by: str = ""
    reason: str = ""


def filed(found: Iterable[Letter], acts: Iterable[Recorded], subjects: Subjects) -> list[Filed]:
    """Dead letters with the last act on each. Pure."""
    done: dict[int, Act] = {}
    for recorded in acts:
        act = recorded.message
        if isinstance(act, DeadLetterRetried | DeadLetterDiscarded):
            done[act.letter] = act
    return [_filed(letter, done.get(letter.sequence), subjects) for letter in found]


def _filed(letter: Letter, act: Act | None, subjects: Subjects) -> Filed:
    try:
        session = str(subjects.parse_session(letter.subject).session)
    except SubjectError:
        session = ""
    state = OPEN if act is None else "retried" if isinstance(act, DeadLetterRetried) else "discarded"
    by, reason = (act.by, act.reason) if act is not None else ("", "")
    return Filed(letter=letter, session=session, state=state, by=by, reason=reason)


async def read(log: JetStreamLog) -> list[Filed]:
    """All dead letters and what became of them, oldest first."""
    acts: list[Recorded] = []
    following = await log.follow("ACTS", [log.subjects.family("act")], acts.append)
    await following.close()
    return filed(await letters(log), acts, log.subjects)


def chosen(found: Sequence[Filed], wanted: Sequence[int], *, every: bool) -> list[Filed]:
    """The letters an operator named, or every open one. Raises ConfigurationError."""
    if every:
        return [each for each in found if each.state == OPEN]
    if not wanted:
        raise ConfigurationError("which dead letters? give their numbers, or --all for every open one")
    by_number = {each.letter.sequence: each for each in found}
    for number in wanted:
        if number not in by_number:
            raise ConfigurationError(f"there is no dead letter {number}; `farlab dead-letters list` has their numbers")
    return [by_number[number] for number in wanted]


async def retry(hand: Operator, each: Filed, reason: str) -> str:
    """Asks the service to decide the letter's session anew. Returns what became of it, in words."""
    try:
        tokens = hand.subjects.parse_session(each.letter.subject)
    except SubjectError:
        return "it names no session, so that nobody could try it again; discard it when it was looked into"
    act = DeadLetterRetried(
        service=each.letter.service,
        hub=tokens.hub,
        system=tokens.system,
        session=tokens.session,
        letter=each.letter.sequence,
        by=operator(),
        reason=reason,
    )
    await hand.act(act)
    return f"{each.letter.service} is asked to decide {tokens.session} anew"


async def discard(hand: Operator, each: Filed, reason: str) -> str:
    """Says that nothing needs doing about the letter any more."""
    await hand.act(
        DeadLetterDiscarded(service=each.letter.service, letter=each.letter.sequence, by=operator(), reason=reason)
    )
    return "discarded"
