"""The spawner `farlab`: a user's server is a session in the event log. Talks to no site, opens no tunnel.

The whole wait is in `start()`. A hub that ends, however it ends, asks for no stop: the session goes on, and the next
hub takes it up (`take_up`). Only `stop()`, which JupyterHub calls for a cancelled start too, asks for the end.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Sequence
from inspect import isawaitable
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jupyterhub.apihandlers.base import APIHandler
from jupyterhub.spawner import Spawner
from traitlets import Unicode, default

from schemas.base import SessionId
from schemas.lifecycle import Ended, NotStarted, Ready
from schemas.secrets import Certificates
from schemas.session import SessionEnded, StartRequested, StopRequested, TunnelReady
from services._runtime.errors import PermanentError, TransientError
from services._runtime.tracing import handling
from services.hub_bridge import records
from services.hub_bridge.arrival import answers, arrive, server_url
from services.hub_bridge.bridge import Bridge
from services.hub_bridge.choosing import choice_for, form_for, options_in, start_requested
from services.hub_bridge.errors import LogAwayError, NotAnsweringError, SessionEndedError, TooLateError
from services.hub_bridge.progress import messages, step_up_url
from services.hub_bridge.quotas import beside, line_of
from services.hub_bridge.secrets import LAUNCHERS, HubSecrets, read_certificates, seal
from services.hub_bridge.sessions import ENDING
from services.hub_bridge.sign_in import kept_sign_in
from services.hub_bridge.take_up import take_up

LONGEST_START_SECONDS = 366 * 86_400
"""JupyterHub must not end a start that queues: its deadline is in `start-requested`."""
AFTER_DEADLINE_SECONDS = 60.0
"""How long after the deadline the launcher may take to end the session before JupyterHub asks for its stop."""
INTERRUPTED_SECONDS = 3.0
"""How long JupyterHub itself may take to stop a start that it interrupted."""
HALF_STARTED = "farlab_half_started"


class FarlabSpawner(Spawner):  # type: ignore[misc]
    """One server of one user."""

    farlab_config = Unicode(config=True, help="The file farlab.toml; by default what FARLAB_CONFIG names.")

    @default("farlab_config")
    def _farlab_config_default(self) -> str:
        return os.environ.get("FARLAB_CONFIG", "farlab.toml")

    @default("start_timeout")
    def _start_timeout_default(self) -> int:
        return LONGEST_START_SECONDS

    @default("env_keep")
    def _env_keep_default(self) -> list[str]:
        return []  # the hub's own PATH and the like mean nothing on another machine

    @default("options_form")
    def _options_form_default(self) -> Callable[[FarlabSpawner], Any]:
        return lambda spawner: form_for(spawner.bridge, spawner.user.name, spawner.user_options or {})

    @default("options_from_form")
    def _options_from_form_default(self) -> Callable[[dict[str, Sequence[object]]], Any]:
        return lambda form: options_in(self.bridge, self.user.name, form)

    @default("apply_user_options")
    def _apply_user_options_default(self) -> Callable[[Any, Any], None]:
        return lambda _spawner, _options: None  # `start` validates them, with one line for whoever asked

    def __init__(self, **traits: Any) -> None:
        self._session: SessionId | None = None
        self._session_known = asyncio.Event()
        self._token_row: int | None = None
        self._kept_token = ""
        self._token_sought = False
        self._reached = False
        self._certificates: Certificates | None = None
        self._requesting: asyncio.Task[None] | None = None
        self._starts = 0
        self.half_started_token: int | None = None
        super().__init__(**traits)

    @property
    def bridge(self) -> Bridge:
        """The hub's side of the event log, shared by all spawners. The first one to ask begins `take_up`."""
        settings = self.user.settings
        bridge = Bridge.of(settings, Path(self.farlab_config))
        if HALF_STARTED not in settings:
            settings[HALF_STARTED] = []
            bridge.begin(take_up(bridge, settings["app"], settings[HALF_STARTED]))
        return bridge

    @property
    def ready(self) -> bool:
        """Whether the user can go in. JupyterHub alone takes a start that was just cancelled for a running server."""
        return bool(super().ready and self._reached)

    # --- state -----------------------------------------------------------------------------------------------------

    def get_state(self) -> dict[str, Any]:
        """What JupyterHub keeps: the session, whether its server was reached, and which token it has; no secret."""
        state: dict[str, Any] = super().get_state()
        if self._session is not None:
            state |= {"session": self._session, "reached": self._reached, "token_id": self._token_row}
        return state

    def load_state(self, state: dict[str, Any]) -> None:
        """After a restart of the hub. A start that was not finished is taken up as soon as the hub is ready."""
        super().load_state(state)
        if not state.get("session"):
            return
        self._token_row = state.get("token_id")
        self.bridge  # noqa: B018 - a hub that starts again takes up what goes on, before anybody comes
        if state.get("reached"):
            self._known(SessionId(state["session"]))
            self._reached = True
        else:
            self.half_started_token = self._token_row
            records.forget_half_start(self)
            self.user.settings[HALF_STARTED].append(self)

    def holds(self, session: SessionId) -> bool:
        """Whether this is the session's spawner."""
        return self._session == session

    def clear_state(self) -> None:
        """Before a start and after a stop."""
        super().clear_state()
        if self._session is not None:
            self.bridge.detach(self._session)
        self._session = None
        self._session_known.clear()
        self._token_row, self._kept_token, self._token_sought = None, "", False
        self._reached, self._requesting = False, None

    async def run_post_stop_hook(self) -> None:
        """After a stop: a token whose text was lost with the vault's entry goes by its row."""
        records.forget_token(self, self._token_row)
        hook = super().run_post_stop_hook()
        if isawaitable(hook):
            await hook

    def start_polling(self) -> None:
        """From here on JupyterHub has done its own about token and address: ours hold again."""
        if self._kept_token:
            self.api_token = self._kept_token
        if self._session is not None and isinstance(state := self.bridge.sessions.state(self._session), Ready):
            records.move_server(self, state.tunnel.host, state.tunnel.port)
        super().start_polling()

    async def move_certs(self, paths: dict[str, str]) -> dict[str, str]:
        """Takes the server's certificate from the hub's store; it goes to the job sealed, and the job says where."""
        self._certificates = read_certificates(paths)
        return {}

    # --- start -----------------------------------------------------------------------------------------------------

    async def start(self) -> tuple[str, int]:
        """Asks for a session, or re-attaches to the live one, and waits until its server answers.

        Returns where the hub reaches it. Raises StartError with what the log says.
        """
        bridge = self.bridge
        self._starts += 1
        try:
            await bridge.opened(bridge.settings.broker_seconds)
            session = await self._live_session() or await self._new_session()
            async with asyncio.timeout(bridge.seconds_left(session) + AFTER_DEADLINE_SECONDS):
                tunnel = await arrive(bridge.sessions, session, self._answers)
        except TransientError:
            raise LogAwayError from None
        except TimeoutError:
            raise TooLateError from None
        except asyncio.CancelledError:
            bridge.begin(self._stop_interrupted(self._starts))
            raise
        except SessionEndedError as error:
            page = not isinstance(self.handler, APIHandler)
            raise SessionEndedError(error.end, self._sign_in_again(error.end) if page else "") from None
        self._reached = True
        if self._kept_token:
            self.api_token = ""  # see records.keep_token: JupyterHub shall not re-use it in its own way
        return tunnel.host, tunnel.port

    async def _stop_interrupted(self, start: int) -> None:
        """Ends the session of a start that its user interrupted, unless it was started again.

        JupyterHub interrupts a start and stops it a second later; a hub too busy to have seen the start end by then
        answers with an error instead and takes the server for stopped at the next try. A hub that ends cancels its
        starts too: it is gone before this goes on, and its sessions live.
        """
        await asyncio.sleep(INTERRUPTED_SECONDS)
        await self.bridge.opened()
        session = self.bridge.sessions.live(self.user.name, self.name)
        if session is not None and self._starts == start:
            await self._ask_to_stop(session, "Its start was interrupted.")

    def _sign_in_again(self, end: SessionEnded) -> str:
        """Where a better sign-in leads back to the form, which keeps what was chosen; nothing where none would help."""
        if end.step_up is None or self.bridge.configuration.shared.sign_in is None:
            return ""
        hub, name = self.hub.base_url, f"/{quote(self.name, safe='')}" if self.name else ""
        back = f"{hub}spawn/{quote(self.user.name, safe='@')}{name}"
        return step_up_url(f"{hub}oauth_login", end.step_up, back)

    async def _live_session(self) -> SessionId | None:
        """The live session of this server, with the token its job holds made valid again."""
        bridge = self.bridge
        while (session := bridge.sessions.live(self.user.name, self.name)) is not None:
            if not isinstance(bridge.sessions.state(session), ENDING):
                self._session = session  # from here on a cancelled start stops it
                try:
                    kept = await bridge.vault.open(session, HubSecrets)
                except PermanentError:
                    await self._ask_to_stop(session, "The hub has lost the secrets of this session.")
                else:
                    self._token_row = records.keep_token(self, kept.api_token)
                    self.api_token = self._kept_token = kept.api_token
                    self._known(session)
                    records.save_state(self)
                    return session
            await bridge.sessions.wait_for(session, lambda state: isinstance(state, Ended))
            self._session = None
        return None

    async def _new_session(self) -> SessionId:
        choice = await choice_for(self.bridge, self.user.name, self.user_options or {})
        request = start_requested(
            self.bridge, self.user.name, self.name, self.server.base_url, choice, kept_sign_in(self.handler)
        )
        session = request.session
        self.bridge.attach(session, self)
        self._session = session
        self._requesting = self.bridge.task(self._ask_to_start(request))
        await asyncio.shield(self._requesting)  # a cancelled start must know whether it was asked for
        self._known(session)
        return session

    async def _ask_to_start(self, request: StartRequested) -> None:
        """Secrets and JupyterHub's record first: whoever reads `start-requested` finds them."""
        bridge = self.bridge
        try:
            launcher = LAUNCHERS[type(request.place)]
            await seal(bridge.vault, request.session, bridge.hub, self.get_env(), self._certificates, launcher=launcher)
            self._token_row = records.token_id(self)
            records.save_state(self)
            asked = await bridge.sessions.record(request)
        except TransientError:
            asked = not isinstance(bridge.sessions.state(request.session), NotStarted)
        if not asked:
            self._session = None
            bridge.disown(request)
            raise TransientError("the start could not be asked for")

    async def _answers(self, tunnel: TunnelReady) -> None:
        scheme = "https" if self.internal_ssl else "http"
        url = server_url(scheme, tunnel, self.server.base_url)
        with handling("hub-bridge", tunnel):
            await answers(url, self.bridge.settings.answer_seconds, self.user.settings)

    def _known(self, session: SessionId) -> None:
        self._session = session
        self._session_known.set()
        self.bridge.attach(session, self)

    # --- while it runs ---------------------------------------------------------------------------------------------

    async def progress(self) -> AsyncIterator[dict[str, Any]]:
        """The session's events as messages, from the first on; any number of readers; never raises."""
        await self._session_known.wait()
        if self._session is None:
            return
        session, sessions = self._session, self.bridge.sessions
        try:
            state = sessions.state(session)
            if not isinstance(state, NotStarted) and (notice := self.bridge.notice(state.request.system)) is not None:
                yield notice
            story = messages(sessions.story(session), self.bridge.title, self._sign_in_again)
            waits = lambda: line_of(sessions.state(session))  # noqa: E731 - read again at every message
            async for said in beside(story, self.bridge.quotas, waits, self.bridge.title):
                yield said
        except TransientError:
            yield {"message": "The event log does not answer; the start goes on."}

    async def poll(self) -> int | None:
        """None while the session lives, by the log; waits for the log rather than take its silence for an end."""
        if self._requesting is not None and not self._requesting.done():
            return None
        if self._session is None:
            return 0
        await self.bridge.opened()
        await self._seek_token(self._session)
        await self.bridge.used(self._session, self.orm_spawner.last_activity)
        match self.bridge.sessions.state(self._session):
            case NotStarted():
                return 0
            case Ended(end=end):
                return end.exit_code or 0
            case _:
                return None

    async def _seek_token(self, session: SessionId) -> None:
        """After a restart: JupyterHub deletes the token at the stop, if the spawner knows it."""
        if self.api_token or self._token_sought:
            return
        try:
            self.api_token = (await self.bridge.vault.open(session, HubSecrets)).api_token
            self._token_sought = True
        except PermanentError:
            self._token_sought = True
        except TransientError as error:
            self.log.info("The vault does not answer: %s", error.reason)

    async def get_url(self) -> str:
        """Where the server is now, after a restart of the hub; waits while it cannot be reached and lives."""
        if self._session is not None:
            await self.bridge.opened()
            while True:
                try:
                    tunnel = await arrive(self.bridge.sessions, self._session, self._answers)
                    records.move_server(self, tunnel.host, tunnel.port)
                except NotAnsweringError:
                    continue  # a busy server is no dead one: JupyterHub would stop it after http_timeout
                except SessionEndedError:
                    pass
                break
        return str(self.server.url)

    async def moved(self, tunnel: TunnelReady) -> None:
        """The tunnel leads there now: JupyterHub and its proxy follow."""
        if records.move_server(self, tunnel.host, tunnel.port) and self.ready:
            await self.user.settings["proxy"].add_user(self.user, self.name)

    async def ended(self) -> None:
        """The session is over: JupyterHub learns it now and not at its next poll. A start or stop notices by itself."""
        if self.ready:
            await self.poll_and_notify()

    async def stop(self, now: bool = False) -> None:
        """Asks for the session's end and waits for it, as long as it takes."""
        del now  # the launcher ends jobs gracefully and tries until they are gone
        if self._requesting is not None:
            await asyncio.gather(self._requesting, return_exceptions=True)
        session = self._session
        if session is None:
            return
        await self.bridge.opened()
        await self._ask_to_stop(session, "JupyterHub was asked to stop the server.")
        await self.bridge.sessions.wait_for(session, lambda state: isinstance(state, NotStarted | Ended))

    async def _ask_to_stop(self, session: SessionId, reason: str) -> None:
        while not isinstance(state := self.bridge.sessions.state(session), NotStarted | Ended | ENDING):
            system = state.request.system
            by = f"{self.user.name} at hub {self.bridge.hub}"[:255]
            try:
                await self.bridge.sessions.record(
                    StopRequested(hub=self.bridge.hub, system=system, session=session, by=by, reason=reason)
                )
            except TransientError as error:
                self.log.warning("The stop of %s waits: %s", self._log_name, error.reason)
                await asyncio.sleep(1)
