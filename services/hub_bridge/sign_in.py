"""The pages of a sign-in: to the provider, back, and out; and which sign-in a browser has. Checks no token.

A browser's sign-in is kept in a signed cookie, so that what it may do is judged by how well this very browser's user
proved who they are, and not by what the same user did elsewhere.
"""

from __future__ import annotations

import re
import secrets
from typing import Any

from jupyterhub.handlers import BaseHandler
from oauthenticator.oauth2 import (
    OAuthCallbackHandler,
    OAuthLoginHandler,
    OAuthLogoutHandler,
    _deserialize_state,
    _serialize_state,
)
from tornado import web

from schemas.base import SESSION_ID_PATTERN, SignInId

COOKIE = "farlab-sign-in"
_ID = re.compile(SESSION_ID_PATTERN)
_LEVELS = re.compile(r"^[\x21\x23-\x5B\x5D-\x7E]+(?: [\x21\x23-\x5B\x5D-\x7E]+)*$")
LONGEST_LEVELS = 512


def keep_sign_in(handler: BaseHandler, sign_in: SignInId) -> None:
    """Lets the browser remember its sign-in, as long as its login lasts."""
    days = handler.settings.get("cookie_max_age_days", 14)
    handler._set_cookie(COOKIE, sign_in, path=handler.hub.base_url, expires_days=days)


def kept_sign_in(handler: BaseHandler | None) -> SignInId | None:
    """The browser's sign-in, if it is a browser, has one, and the hub signed it."""
    if handler is None:
        return None
    days = handler.settings.get("cookie_max_age_days", 14)
    value = (handler.get_secure_cookie(COOKIE, max_age_days=days) or b"").decode("ascii", "replace")
    return SignInId(value) if _ID.fullmatch(value) else None


def stepping_up(levels: str, max_age: str) -> dict[str, str]:
    """What the provider is asked beside the usual, so that a sign-in is better or newer than the last. Pure.

    Anybody may ask for anything here: what came of it is judged by accounts. Raises ValueError for what is no such
    question.
    """
    asked: dict[str, str] = {}
    if levels:
        if len(levels) > LONGEST_LEVELS or not _LEVELS.fullmatch(levels):
            raise ValueError("acr_values must be names with single spaces between them")
        asked["acr_values"] = levels
    if max_age:
        if not (max_age.isascii() and max_age.isdigit() and len(max_age) <= 9):
            raise ValueError("max_age must be a number of seconds")
        asked["max_age"] = max_age
    return asked


class SignInHandler(OAuthLoginHandler):  # type: ignore[misc]
    """Sends the browser to the provider."""

    async def get(self) -> None:
        """Asks for a sign-in; with `acr_values` or `max_age` for a better one, and the password again if neither."""
        await self.authenticator.discover()
        try:
            self._asked = stepping_up(self.get_argument("acr_values", ""), self.get_argument("max_age", ""))
        except ValueError as error:
            raise web.HTTPError(400, str(error)) from None
        if self.get_argument("again", "") and not self._asked:
            self._asked = {"prompt": "login"}
        self._asked["nonce"] = secrets.token_urlsafe(32)
        super().get()

    def set_state_cookie(self, state_cookie_value: str) -> None:
        """The nonce travels with oauthenticator's own state: in a signed cookie of the browser that began."""
        state = _deserialize_state(state_cookie_value) | {"nonce": self._asked["nonce"]}
        super().set_state_cookie(_serialize_state(state))

    def authorize_redirect(self, *args: Any, extra_params: dict[str, Any] | None = None, **rest: Any) -> None:
        """Adds what is asked of this sign-in alone."""
        super().authorize_redirect(*args, extra_params={**(extra_params or {}), **self._asked}, **rest)


class CallbackHandler(OAuthCallbackHandler):  # type: ignore[misc]
    """Takes the browser back from the provider."""

    def nonce(self) -> str:
        """What the ID token must repeat. Raises web.HTTPError."""
        nonce = _deserialize_state(self.get_state_cookie()).get("nonce")
        if not isinstance(nonce, str) or not nonce:
            raise web.HTTPError(400, "This sign-in was begun by an older version of this page. Sign in again.")
        return nonce

    def check_state(self) -> None:
        """Whether this browser began this sign-in, in words for people."""
        try:
            super().check_state()
        except web.HTTPError:
            raise web.HTTPError(
                400,
                "This sign-in was begun in another browser, in another tab since, or too long ago. Sign in again.",
            ) from None


class SignOutHandler(OAuthLogoutHandler):  # type: ignore[misc]
    """Ends a sign-in here and, where the provider has a page for that, there."""

    _user = ""
    _id_token = ""

    async def default_handle_logout(self) -> None:
        """Notes who leaves, while it is known."""
        self._user = self.current_user.name if self.current_user else ""
        await super().default_handle_logout()

    async def handle_logout(self) -> None:
        """Tells accounts, and forgets the browser's sign-in."""
        await super().handle_logout()
        sign_in = kept_sign_in(self)
        if self._user and sign_in is not None:
            self._id_token = await self.authenticator.sign_out(self, self._user, sign_in)
        self.clear_cookie(COOKIE, path=self.hub.base_url)

    async def render_logout_page(self) -> None:
        """Goes on to the provider by a form, because what it wants back does not belong into an address."""
        url = await self.authenticator.end_session_url() if self._id_token else ""
        if not url:
            await super().render_logout_page()
            return
        html = await self.render_template(
            "farlab_sign_out.html",
            end_session_url=url,
            id_token=self._id_token,
            home_url=self.authenticator.home_url,
            client_id=self.authenticator.client_id,
            title=self.authenticator.sign_in.title,
        )
        self.finish(html)
