"""The last step of a start: from a tunnel that leads to the server to a server that answers. Opens no tunnel."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from jupyterhub.utils import make_ssl_context, wait_for_http_server

from schemas.base import SessionId
from schemas.lifecycle import Ended, Reachable, Ready, SessionState
from schemas.session import ServerReady, TunnelReady
from services._runtime.errors import TransientError
from services.hub_bridge.errors import NotAnsweringError, SessionEndedError
from services.hub_bridge.sessions import Sessions

AGAIN_SECONDS = 1.0

Answering = Callable[[TunnelReady], Awaitable[None]]
"""Returns when the server answers through a tunnel. Raises NotAnsweringError when it does not in its time."""


def server_url(scheme: str, tunnel: TunnelReady, base_url: str) -> str:
    """A page of the server that every version has and that needs no login, through a tunnel."""
    host = f"[{tunnel.host}]" if ":" in tunnel.host else tunnel.host
    return f"{scheme}://{host}:{tunnel.port}{base_url}api"


async def answers(url: str, seconds: float, settings: Mapping[str, Any]) -> None:
    """Returns when a server answers; `settings` are JupyterHub's, for `internal_ssl`. Raises NotAnsweringError."""
    key, certificate = settings.get("internal_ssl_key"), settings.get("internal_ssl_cert")
    context = make_ssl_context(key, certificate, cafile=settings.get("internal_ssl_ca"))
    try:
        await wait_for_http_server(url, timeout=seconds, ssl_context=context)
    except TimeoutError:
        raise NotAnsweringError(seconds) from None


async def arrive(sessions: Sessions, session: SessionId, answering: Answering) -> TunnelReady:
    """Waits until the server answers, over whatever the tunnel does meanwhile, and says so in the log, once.

    Returns the tunnel it answers through. Raises SessionEndedError, and what `answering` raises.
    """
    while True:
        state = await sessions.wait_for(session, lambda at: isinstance(at, Reachable | Ready | Ended))
        if isinstance(state, Ended):
            raise SessionEndedError(state.end)
        if not isinstance(state, Reachable | Ready) or not await _answers(sessions, session, state.tunnel, answering):
            continue
        if isinstance(state, Ready):
            return state.tunnel
        ready = ServerReady(hub=state.request.hub, system=state.request.system, session=session)
        try:
            await sessions.record(ready)
        except TransientError:
            await asyncio.sleep(AGAIN_SECONDS)  # the server is there: an event log that is away must not end it


async def _answers(sessions: Sessions, session: SessionId, tunnel: TunnelReady, answering: Answering) -> bool:
    """Whether the server answers through this tunnel; False when the tunnel or the session went on to elsewhere."""
    answer = asyncio.ensure_future(answering(tunnel))
    moved = asyncio.ensure_future(sessions.wait_for(session, lambda at: not leads_by(at, tunnel)))
    try:
        await asyncio.wait([answer, moved], return_when=asyncio.FIRST_COMPLETED)
        if moved.done():
            return False
        await answer
        return True
    finally:
        for task in (answer, moved):
            task.cancel()
        await asyncio.gather(answer, moved, return_exceptions=True)


def leads_by(state: SessionState, tunnel: TunnelReady) -> bool:
    """Whether the session's server is still reached by this tunnel."""
    return isinstance(state, Reachable | Ready) and state.tunnel.generation == tunnel.generation
