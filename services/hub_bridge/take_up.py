"""After a hub's restart: takes up the starts that the log says go on, by JupyterHub's own code. Starts nothing new."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import quote

import structlog
from jupyterhub.handlers.base import BaseHandler
from tornado.httputil import HTTPHeaders, HTTPServerRequest

from schemas.session import StartRequested
from services.hub_bridge import records
from services.hub_bridge.bridge import Bridge

AGAIN_SECONDS = 5.0

_log = structlog.get_logger("farlab.hub_bridge")


async def take_up(bridge: Bridge, app: Any, half_started: list[Any]) -> None:
    """Spawns again, for ever, every live session of this hub that no spawner holds; the spawner then re-attaches.

    `half_started` are the spawners whose start a hub that is gone had not finished; those whose session is over are
    cleared. A session whose user or server JupyterHub does not know stays as it is: starting that server re-attaches.
    """
    await bridge.opened()
    await app._start_future  # before that the proxy takes no route, and JupyterHub would stop the server
    for spawner in half_started:
        live = bridge.sessions.live(spawner.user.name, spawner.name)
        if live is None and not spawner.active:
            records.forget_session(spawner, spawner.half_started_token)
    async for request in bridge.unheld():
        bridge.begin(_spawn_again(bridge, app, request))
        await asyncio.sleep(0)  # JupyterHub takes some 20 ms to begin a spawn: let others in between


async def _spawn_again(bridge: Bridge, app: Any, request: StartRequested) -> None:
    """Begins the spawn as if its user had pressed Start; tries again while the hub is full or the log away."""
    session = request.session
    user = app.users.get(request.user)
    if user is None or request.server_name not in user.orm_spawners:
        _log.warning(
            "a session goes on whose server JupyterHub does not know; starting that server re-attaches, "
            "`farlab stop` ends it",
            session=session,
        )
        return
    while bridge.sessions.live(request.user, request.server_name) == session:
        spawner = user.get_spawner(request.server_name, replace_failed=True)
        if spawner.active:
            if not spawner.holds(session):
                await bridge.withdraw(request, "Its server was started again before its own start came into the log.")
            return
        try:
            await _handler(app, request).spawn_single_user(user, request.server_name, spawner.display_name)
        except Exception as error:
            if getattr(error, "status_code", 0) not in (429, 503):
                _log.warning("a start could not be taken up again", session=session, reason=str(error))
                return
            await asyncio.sleep(AGAIN_SECONDS)
        else:
            return


class _NoConnection:
    """In place of a browser's connection: a spawn is a method of JupyterHub's request handlers."""

    def set_close_callback(self, callback: object) -> None:
        """Never closes."""


def _handler(app: Any, request: StartRequested) -> BaseHandler:
    uri = f"{app.hub.base_url}spawn/{quote(request.user)}"
    connection: Any = _NoConnection()
    made = HTTPServerRequest(method="POST", uri=uri, headers=HTTPHeaders(), connection=connection)
    return BaseHandler(app.tornado_application, made)
