"""Says recorded sessions again: what came from outside, or all of it. Waits for the sandbox; decides nothing for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import msgspec
from ulid import ULID

from schemas.base import EventId, SessionId
from schemas.lifecycle import Ended, SessionState
from schemas.session import SessionEnded, SessionEvent, StartRequested, StopRequested
from services.operator_cli.sandbox.mapping import Mapping, first_parting, from_outside, mapped
from services.operator_cli.sandbox.target import Target
from services.operator_cli.story.history import History, Moment, moments, state_name, state_of

AT_ONCE = 50
"""How many sessions are under way at a time where nothing is waited for."""
WAY = (
    ("not started",),
    ("requested",),
    ("waiting", "rejected", "withdrawn"),
    ("admitted", "cancelling"),
    ("created",),
    ("submitted",),
    ("listening",),
    ("reachable",),
    ("ready", "interrupted"),
    ("stopping",),
    ("ended",),
)
"""How far on its way each state is: who stopped a queueing server stops it no sooner here."""


class Played(msgspec.Struct, frozen=True, kw_only=True):
    """A session that was replayed: as which it is `here`, how it ended then and now, and where the two ways part."""

    session: SessionId
    here: SessionId
    events: int
    recorded: str
    outcome: str
    parted: str


class Script(msgspec.Struct, frozen=True, kw_only=True):
    """One recorded session and the id it gets."""

    here: SessionId
    told: Sequence[Moment]

    @property
    def session(self) -> SessionId:
        """Its recorded id."""
        return self.told[0].event.session

    @property
    def request(self) -> StartRequested:
        """The start that was asked for."""
        return cast(StartRequested, self.told[0].event)  # `scripts` takes no other

    def said(self, *, as_recorded: bool) -> list[Moment]:
        """The events that are said again."""
        return [each for each in self.told if as_recorded or from_outside(each)]


def scripts(histories: Sequence[History]) -> list[Script]:
    """The sessions that can be replayed: those whose beginning is in the log. Each gets a new id."""
    told = [list(moments(history)) for history in histories]
    return [
        Script(here=SessionId(str(ULID()).lower()), told=each)
        for each in told
        if each and isinstance(each[0].event, StartRequested)
    ]


class Player:
    """Replays sessions into a target. A `speed` of 2 is twice as fast as it was, 0 waits for nothing but the target."""

    def __init__(self, target: Target, mapping: Mapping, *, speed: float, patience_seconds: float) -> None:
        self._target = target
        self._mapping = mapping
        self._speed = speed
        self._patience = patience_seconds

    async def all(self, wanted: Sequence[Script], done: Callable[[Played], None], *, as_recorded: bool) -> list[Played]:
        """Replays sessions beside each other, as they were; `done` is told of each."""
        begun, first = asyncio.get_running_loop().time(), min(script.request.at for script in wanted)
        hands = asyncio.Semaphore(AT_ONCE if not self._speed else len(wanted))

        async def one(script: Script) -> Played:
            async with hands:
                due = _Due(begun, first, self._speed)
                played = await (self._copied(script, due) if as_recorded else self._lived(script, due))
            done(played)
            return played

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(script)) for script in wanted]
        return [task.result() for task in tasks]

    async def _copied(self, script: Script, due: _Due) -> Played:
        """Every event as it was recorded, said by nobody anew; at speed 0 with the times it had."""
        sequence, ids = 0, dict[EventId, EventId]()
        for moment in script.told:
            await due.wait(moment.event.at)
            stamp = self._target.stamp(moment.event.source.rpartition("/")[2])
            now = moment.event.at if not self._speed else datetime.now(UTC)
            event = mapped(moment.event, self._mapping, script.here, now - moment.event.at)
            stamped = stamp(event, after=sequence, cause=ids.get(moment.event.cause or EventId("")))
            if not self._speed:
                stamped = msgspec.structs.replace(stamped, at=moment.event.at)
            ids[moment.event.id] = stamped.id
            sequence = await self._target.append(stamped, sequence)
        return await self._played(script, len(script.told))

    async def _lived(self, script: Script, due: _Due) -> Played:
        """What came from outside, each when the sandbox has come as far as it had come then."""
        said = 0
        try:
            for moment in script.said(as_recorded=False):
                await due.wait(moment.event.at)
                if isinstance(moment.event, StartRequested):
                    user = self._mapping.user or moment.event.user
                    await self._target.seal(script.here, user, moment.event.base_url)
                elif not await self._target.until(script.here, _as_far_as(moment.before), self._patience):
                    break
                said += await self._say(script, moment.event)
            if isinstance(script.told[-1].after, Ended):
                await self._end(script)
        finally:
            if isinstance(self._target.here(script.here).state, Ended):
                await self._target.forget(script.here)
        return await self._played(script, said)

    async def _end(self, script: Script) -> None:
        """Sees to it that what ended then ends now: nothing is left running in the sandbox."""
        if await self._target.until(script.here, _ended, self._patience):
            return
        request = script.request
        reason = "The recorded session had ended, and this one had not."
        stop = StopRequested(
            hub=request.hub, system=request.system, session=request.session, by="operator replay", reason=reason
        )
        await self._say(script, stop)
        await self._target.until(script.here, _ended, self._patience)

    async def _say(self, script: Script, event: SessionEvent) -> bool:
        """Says an event under the session's new id; False where its state here refuses it."""
        said = mapped(event, self._mapping, script.here, datetime.now(UTC) - event.at)
        return await self._target.say(said, event.source.rpartition("/")[2] or "operator-cli")

    async def _played(self, script: Script, said: int) -> Played:
        history = await self._target.log.history("SESSIONS", self._target.subjects.session(script.here))
        return Played(
            session=script.session,
            here=script.here,
            events=said,
            recorded=_outcome(script.told[-1].after),
            outcome=_outcome(state_of(history)),
            parted=first_parting(_way(script.told), _way(list(moments(history)))),
        )


class _Due:
    """When what was recorded at a time is due here."""

    def __init__(self, begun: float, first: datetime, speed: float) -> None:
        self._begun, self._first, self._speed = begun, first, speed

    async def wait(self, at: datetime) -> None:
        if self._speed:
            due = self._begun + (at - self._first) / timedelta(seconds=self._speed)
            await asyncio.sleep(max(0.0, due - asyncio.get_running_loop().time()))


def _place(state: SessionState) -> int:
    name = state_name(state).partition(" (")[0]
    return next(place for place, names in enumerate(WAY) if name in names)


def _as_far_as(recorded: SessionState) -> Callable[[SessionState], bool]:
    return lambda here: _place(here) >= _place(recorded)


def _ended(state: SessionState) -> bool:
    return isinstance(state, Ended)


def _outcome(state: SessionState) -> str:
    return state.end.outcome if isinstance(state, Ended) else state_name(state)


def _way(told: Sequence[Moment]) -> list[str]:
    """The states a session went through, each once in a row; what only repeats is left out."""
    names: list[str] = []
    for moment in told:
        name = state_name(moment.after).partition(" (")[0]
        if isinstance(moment.event, SessionEnded) and moment.legal:
            name = f"ended as {moment.event.outcome}"
        if moment.legal and (not names or names[-1] != name):
            names.append(name)
    return names


def preview(wanted: Sequence[Script], mapping: Mapping, *, as_recorded: bool) -> list[str]:
    """A line a session: what would be said, as whom, and under which id."""
    lines: list[str] = []
    for script in wanted:
        request: Any = script.request
        user, system = mapping.user or request.user, mapping.system or request.system
        count = len(script.said(as_recorded=as_recorded))
        lines.append(f"{script.session} -> {script.here}: {count} of {len(script.told)} events, {user} on {system}")
    return lines
