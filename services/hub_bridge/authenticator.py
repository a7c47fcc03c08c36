"""The authenticator `farlab`: users sign in through an OpenID provider. Believes no token unchecked and keeps none.

On oauthenticator's GenericOAuthenticator, which knows the way through the browser; discovery, the checks of ID tokens,
renewal and sign-out are here. It needs no `auth_state`: what a sign-in brought goes sealed to accounts.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from jupyterhub.handlers import BaseHandler
from oauthenticator.generic import GenericOAuthenticator
from tornado import web
from tornado.httpclient import HTTPClientError
from traitlets import Unicode, default

from schemas.base import SignInId
from schemas.secrets import SignInSecrets
from services._runtime.configuration import ConfigurationError
from services._runtime.errors import TransientError
from services._runtime.openid import Claims, SignInSettings, UntrustedError
from services._runtime.openid_provider import OpenIdProvider, ProviderAwayError
from services._runtime.settings import load
from services._runtime.vault import read_secret_file
from services.hub_bridge.bridge import Bridge
from services.hub_bridge.settings import HubBridgeSettings
from services.hub_bridge.sign_in import CallbackHandler, SignInHandler, SignOutHandler, keep_sign_in, kept_sign_in

BROUGHT = "farlab_sign_in"
"""Where, in JupyterHub's model of a sign-in, what it brought waits until the user is let in."""


class FarlabAuthenticator(GenericOAuthenticator):  # type: ignore[misc]
    """Sign-in through the provider that `[sign_in]` of farlab.toml names."""

    login_handler = SignInHandler
    callback_handler = CallbackHandler
    logout_handler = SignOutHandler

    farlab_config = Unicode(config=True, help="The file farlab.toml; by default what FARLAB_CONFIG names.")

    @default("farlab_config")
    def _farlab_config_default(self) -> str:
        return os.environ.get("FARLAB_CONFIG", "farlab.toml")

    def __init__(self, **traits: Any) -> None:
        """Raises ConfigurationError or KeyFileError. Asks the provider nothing: a hub starts while it is away."""
        super().__init__(**traits)
        configuration = load(Path(self.farlab_config))
        settings = configuration.shared.sign_in
        if settings is None:
            raise ConfigurationError(f"{configuration.file}: [sign_in] is missing; name the provider there")
        folder = configuration.file.parent
        hub = configuration.section("hub_bridge", HubBridgeSettings)
        self.sign_in: SignInSettings = settings
        self.provider = OpenIdProvider(settings, folder)
        self.home_url = hub.public_url.rstrip("/") + "/"
        self.client_id = settings.client_id
        self.client_secret = read_secret_file(folder / settings.client_secret_file).decode().strip()
        self.oauth_callback_url = f"{self.home_url}hub/oauth_callback"
        self.login_service = settings.title
        self.scope = list(settings.scopes)
        self.extra_authorize_params = dict(settings.authorize_parameters)
        self.username_claim = settings.username_claim
        self.allow_all = True  # who may sign in is the provider's to say, who may use what is for accounts
        self.auth_refresh_age = settings.refresh_seconds
        self.enable_pkce = True
        self.basic_auth = True
        seconds = settings.timeout_seconds
        trust = {"ca_certs": str(folder / settings.ca_file)} if settings.ca_file else {}
        self.http_request_kwargs = {"connect_timeout": seconds, "request_timeout": seconds, **trust}

    async def discover(self) -> None:
        """Learns where the provider's endpoints are. Raises web.HTTPError for people."""
        try:
            metadata = await self.provider.metadata()
        except ProviderAwayError as error:
            raise self._away(error.reason) from None
        self.authorize_url = metadata.authorization_endpoint
        self.token_url = metadata.token_endpoint
        self.userdata_url = metadata.userinfo_endpoint or ""

    async def authenticate(self, handler: CallbackHandler, data: Any = None, **_: Any) -> dict[str, Any]:
        """Turns the code into tokens and believes them once they are checked. Raises web.HTTPError for people."""
        await self.discover()
        try:
            tokens = await self._asked_for(
                self.token_url,
                method="POST",
                headers=self.build_token_info_request_headers(),
                body=_form(self.build_access_tokens_request_params(handler, data)),
            )
            id_token = tokens.get("id_token")
            if not isinstance(id_token, str):
                raise UntrustedError("there is none; is `openid` among sign_in.scopes?")
            claims = await self.provider.claims(id_token, nonce=handler.nonce())
            every = {**claims.every, **await self._userinfo(tokens, claims)}
        except UntrustedError as error:
            self.log.warning("The ID token of a sign-in was refused: %s", error)
            raise web.HTTPError(
                403, f"The sign-in cannot be trusted: its ID token was refused, because {error}. Sign in again."
            ) from None
        except ProviderAwayError as error:
            raise self._away(error.reason) from None
        name = every.get(self.sign_in.username_claim)
        if not isinstance(name, str) or not 0 < len(name) <= 255:
            raise web.HTTPError(
                403,
                f"{self.sign_in.title} did not tell us your user name ({self.sign_in.username_claim}). "
                "Ask your support to release it to this service.",
            )
        refresh_token = str(tokens.get("refresh_token") or "")
        return {"name": name, "admin": None, BROUGHT: (claims, every, refresh_token, id_token)}

    async def run_post_auth_hook(self, handler: Any, auth_model: dict[str, Any]) -> dict[str, Any]:
        """Hands over what the sign-in of a user who was let in brought. Raises web.HTTPError for people."""
        claims, every, refresh_token, id_token = auth_model.pop(BROUGHT)
        secrets = SignInSecrets(user=auth_model["name"], subject=claims.sub, claims=every, refresh_token=refresh_token)
        bridge = self.bridge(handler.settings)
        try:
            await bridge.opened(bridge.settings.broker_seconds)
            sign_in = await bridge.sign_ins.begin(secrets, claims, id_token)
        except TransientError as error:
            self.log.warning("A sign-in could not be handed over: %s", error.reason)
            raise web.HTTPError(
                503, "You cannot be signed in right now: the event log does not answer. Try again in a minute."
            ) from None
        keep_sign_in(handler, sign_in)
        return dict(await super().run_post_auth_hook(handler, auth_model))

    async def refresh_user(self, user: Any, handler: Any = None, **_: Any) -> bool:
        """Whether the user may go on without signing in again. Whoever cannot be asked is not asked: True."""
        if handler is None or handler.get_auth_token():
            return True
        if not hasattr(handler, "_token_authenticated"):
            handler._token_authenticated = False  # JupyterHub 6.1 reads it for cookies and sets it for tokens only
        sign_in = kept_sign_in(handler)
        if sign_in is None:
            return False
        try:
            renewed = await self.bridge(user.settings).sign_ins.renewed(user.name, sign_in)
        except TransientError as error:
            self.log.info("The sign-in of %s is not renewed now: %s", user.name, error.reason)
            return True
        if renewed.outcome == "over":
            self.log.info("The sign-in of %s is over: %s", user.name, renewed.reason)
        return renewed.outcome != "over"

    async def sign_out(self, handler: BaseHandler, user: str, sign_in: SignInId) -> str:
        """Ends a sign-in; returns the ID token the provider wants back, if there is one to give."""
        try:
            return await self.bridge(handler.settings).sign_ins.end(user, sign_in)
        except TransientError as error:
            self.log.warning("A sign-out of %s could not be told to accounts: %s", user, error.reason)
            return ""

    async def end_session_url(self) -> str:
        """Where the provider ends its own session, or nothing."""
        try:
            return (await self.provider.metadata()).end_session_endpoint or ""
        except ProviderAwayError:
            return ""

    def bridge(self, settings: dict[str, Any]) -> Bridge:
        """The hub's side of the event log, shared with all spawners."""
        return Bridge.of(settings, Path(self.farlab_config))

    async def _userinfo(self, tokens: dict[str, Any], claims: Claims) -> dict[str, Any]:
        """What userinfo adds; it must speak of the same person (OpenID Connect Core 1.0, 5.3.2)."""
        if not self.userdata_url:
            return {}
        headers = self.build_userdata_request_headers(str(tokens.get("access_token", "")), "bearer")
        told = await self._asked_for(self.userdata_url, method="GET", headers=headers)
        if told.get("sub") != claims.sub:
            raise UntrustedError("userinfo speaks of another person")
        return told

    async def _asked_for(self, url: str, **request: Any) -> dict[str, Any]:
        """An answer of the provider. Raises ProviderAwayError, or web.HTTPError where it refuses."""
        try:
            told = await self.httpfetch(url, validate_cert=True, **request)
        except HTTPClientError as error:
            if 400 <= error.code < 500:
                raise web.HTTPError(
                    403, f"{self.sign_in.title} refused the sign-in (HTTP {error.code}). Sign in again."
                ) from None
            raise ProviderAwayError(f"it answered {error.code}") from None
        except (OSError, ValueError) as error:
            raise ProviderAwayError(f"it did not answer ({type(error).__name__})") from None
        if not isinstance(told, dict):
            raise ProviderAwayError("its answer is not a JSON object")
        return told

    def _away(self, reason: str) -> web.HTTPError:
        self.log.warning("The identity provider is away: %s", reason)
        return web.HTTPError(
            503,
            f"{self.sign_in.title} does not answer, so nobody can sign in right now. Running servers go on. "
            "Try again in a minute.",
        )


def _form(values: dict[str, Any]) -> bytes:
    return urlencode({name: value for name, value in values.items() if value is not None}).encode()
