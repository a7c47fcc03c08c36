"""From what a user asked for to `start-requested`: the form, the choice, the event. Appends nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta

import msgspec
from ulid import ULID

from schemas.base import SessionId, SignInId, SystemName, UserName
from schemas.session import StartRequested
from services._runtime.errors import TransientError
from services.hub_bridge.bridge import Bridge
from services.hub_bridge.clouds import CloudChoice
from services.hub_bridge.errors import LogAwayError, StartError
from services.hub_bridge.form import options_form
from services.hub_bridge.options import Choice, OptionsError, choose, from_form


async def form_for(bridge: Bridge, user: str, last: Mapping[str, object]) -> str:
    """The form of what a user may choose from, filled in as last time. Raises LogAwayError."""
    try:
        return options_form(await bridge.offer(user), last)
    except TransientError:
        raise LogAwayError from None


async def choice_for(bridge: Bridge, user: str, options: Mapping[str, object]) -> Choice | CloudChoice:
    """What a user chose, complete and allowed. Raises StartError with one line, or LogAwayError."""
    try:
        return choose(options, await bridge.offer(user))
    except OptionsError as error:
        raise StartError(str(error), reason="options") from None
    except TransientError:
        raise LogAwayError from None


async def options_in(bridge: Bridge, user: str, form: Mapping[str, Sequence[object]]) -> dict[str, object]:
    """The same from a submitted form or query, as JupyterHub keeps it. Raises as `choice_for`."""
    try:
        asked = from_form(form)
    except OptionsError as error:
        raise StartError(str(error), reason="options") from None
    return (await choice_for(bridge, user, asked)).options()


def start_requested(
    bridge: Bridge,
    user: str,
    server_name: str,
    base_url: str,
    choice: Choice | CloudChoice,
    sign_in: SignInId | None = None,
) -> StartRequested:
    """The start of a new session, asked for by a browser with this sign-in, or by a program.

    Raises StartError when a name is too long to be written into the log.
    """
    request = StartRequested(
        hub=bridge.hub,
        system=SystemName(choice.system),
        session=SessionId(str(ULID()).lower()),
        user=UserName(user),
        server_name=server_name,
        vo=choice.vo,
        place=choice.place,
        resources=choice.resources,
        software=choice.software,
        base_url=base_url,
        sign_in=sign_in,
        deadline=bridge.now() + timedelta(seconds=bridge.settings.start_deadline_seconds),
    )
    try:
        return msgspec.convert(msgspec.to_builtins(request), StartRequested)
    except msgspec.ValidationError as error:
        raise StartError(f"This server cannot be asked for: {error}; use a shorter name", reason="options") from None
