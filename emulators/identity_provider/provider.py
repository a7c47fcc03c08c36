"""The emulated identity provider: OpenID Connect over HTTP on one port, and the pages to sign in. Keeps no file.

Discovery, JWKS, authorization code with PKCE, refresh rotation, userinfo, revocation, introspection, end session.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlencode

from aiohttp import web
from authlib.oauth2.rfc6749 import OAuth2Error
from joserfc import jwt
from joserfc.errors import JoseError

from emulators.identity_provider.authorization import AUTH_METHODS, Answer, Asked, Authorization, claims_of
from emulators.identity_provider.configuration import Person, ProviderConfiguration
from emulators.identity_provider.grants import GRANT_TYPES, SCOPES, SignIn, Store
from emulators.identity_provider.pages import page, sign_in_page
from emulators.identity_provider.signing import ALGORITHM, Signer

COOKIE = "emulated-idp-session"
SECOND_FACTOR = "mfa"
"""The `acr` value that asks for a second factor."""


class IdentityProvider:
    """A running provider; `async with` starts and ends it. `requests` counts by path; `away` lets it answer 503."""

    def __init__(self, configuration: ProviderConfiguration, now: Callable[[], float] = time.time) -> None:
        self.configuration = configuration
        self.people = {person.name: person for person in configuration.people}
        self.signer = Signer()
        self.requests: dict[str, int] = {}
        self.away = False
        self.store = Store(configuration.clients, configuration.lifetimes, now)
        self._authorization = Authorization(self.store, self.signer)
        self._sessions: dict[str, SignIn] = {}
        self._now = now
        app = web.Application(middlewares=[self._gate])
        app.add_routes(
            [
                web.get("/.well-known/openid-configuration", self._discovery),
                web.get("/jwks", self._jwks),
                web.get("/authorize", self._authorize),
                web.post("/authorize", self._sign_in),
                web.post("/token", self._token),
                web.get("/userinfo", self._userinfo),
                web.post("/userinfo", self._userinfo),
                web.post("/revoke", self._revoke),
                web.post("/introspect", self._introspect),
                web.get("/end-session", self._end_session),
                web.post("/end-session", self._end_session),
            ]
        )
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1.0)

    @property
    def issuer(self) -> str:
        """The provider's name, which is its address."""
        return self._authorization.issuer

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        await web.TCPSite(self._runner, self.configuration.host, self.configuration.port).start()
        here = f"http://{self.configuration.host}:{self._runner.addresses[0][1]}"
        self._authorization.issuer = self.configuration.issuer or here
        if self.configuration.told_file:
            told = Path(self.configuration.told_file)
            temporary = told.with_suffix(".new")
            temporary.write_text(json.dumps({"issuer": self.issuer}))
            temporary.replace(told)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    @web.middleware
    async def _gate(self, request: web.Request, handler: Any) -> web.StreamResponse:
        self.requests[request.path] = self.requests.get(request.path, 0) + 1
        if self.away:
            return web.Response(status=503, text="down for maintenance")
        answer: web.StreamResponse = await handler(request)
        answer.headers.setdefault("Cache-Control", "no-store")
        return answer

    async def _discovery(self, _request: web.Request) -> web.Response:
        return web.json_response(
            {
                "issuer": self.issuer,
                "authorization_endpoint": f"{self.issuer}/authorize",
                "token_endpoint": f"{self.issuer}/token",
                "userinfo_endpoint": f"{self.issuer}/userinfo",
                "jwks_uri": f"{self.issuer}/jwks",
                "revocation_endpoint": f"{self.issuer}/revoke",
                "introspection_endpoint": f"{self.issuer}/introspect",
                "end_session_endpoint": f"{self.issuer}/end-session",
                "response_types_supported": ["code"],
                "grant_types_supported": list(GRANT_TYPES),
                "subject_types_supported": ["public"],
                "id_token_signing_alg_values_supported": [ALGORITHM],
                "token_endpoint_auth_methods_supported": list(AUTH_METHODS),
                "code_challenge_methods_supported": ["S256"],
                "scopes_supported": list(SCOPES),
                "acr_values_supported": ["password", SECOND_FACTOR],
            }
        )

    async def _jwks(self, _request: web.Request) -> web.Response:
        return web.json_response(self.signer.published())

    async def _authorize(self, request: web.Request) -> web.Response:
        """Sends the user back with a code at once where an earlier sign-in is enough, else asks for one."""
        asked, sign_in = self._asked(request, dict(request.query)), self._enough(request)
        try:
            grant = self._authorization.get_consent_grant(asked, end_user=sign_in)
        except OAuth2Error as error:
            return _web(self._authorization.handle_error_response(asked, error))
        if sign_in is None:
            client = asked.payload.client_id
            return _html(
                sign_in_page(self.configuration.title, client=client, second_factor=self._wants_second_factor(request))
            )
        return _web(self._authorization.create_authorization_response(asked, grant_user=sign_in, grant=grant))

    async def _sign_in(self, request: web.Request) -> web.Response:
        """Takes the form and sends the user back with a code."""
        asked, form = self._asked(request, dict(request.query)), await request.post()
        second_factor = self._wants_second_factor(request)
        person = self._proved({name: str(value) for name, value in form.items()}, second_factor)
        if person is None:
            trouble = "User name, password or code are wrong." if second_factor else "User name or password are wrong."
            client = str(asked.payload.client_id or "")
            inside = sign_in_page(self.configuration.title, client=client, second_factor=second_factor, trouble=trouble)
            return _html(inside, 401)
        methods = ("pwd", "otp", "mfa") if second_factor else ("pwd",)
        sign_in = SignIn(person, int(self._now()), methods)
        try:
            grant = self._authorization.get_consent_grant(asked, end_user=sign_in)
        except OAuth2Error as error:
            return _web(self._authorization.handle_error_response(asked, error))
        answer = _web(self._authorization.create_authorization_response(asked, grant_user=sign_in, grant=grant))
        session = secrets.token_urlsafe(32)
        self._sessions[session] = sign_in
        answer.set_cookie(COOKIE, session, httponly=True, samesite="Lax")
        return answer

    async def _token(self, request: web.Request) -> web.Response:
        return _web(self._authorization.create_token_response(await self._posted(request)))

    async def _revoke(self, request: web.Request) -> web.Response:
        return _web(self._authorization.create_endpoint_response("revocation", await self._posted(request)))

    async def _introspect(self, request: web.Request) -> web.Response:
        return _web(self._authorization.create_endpoint_response("introspection", await self._posted(request)))

    async def _userinfo(self, request: web.Request) -> web.Response:
        scheme, _, value = request.headers.get("Authorization", "").partition(" ")
        token = self.store.token(value, "access_token") if scheme.lower() == "bearer" else None
        if token is None or token.is_expired() or token.is_revoked():
            return web.json_response(
                {"error": "invalid_token"}, status=401, headers={"WWW-Authenticate": 'Bearer error="invalid_token"'}
            )
        person = token.family.sign_in.person
        return web.json_response(claims_of(self.people.get(person.name, person)))

    async def _end_session(self, request: web.Request) -> web.Response:
        """RP-initiated logout: only a hint we signed ends a session unasked, and only to an address we know."""
        values = {**request.query, **{name: str(value) for name, value in (await request.post()).items()}}
        client = self.store.clients.get(self._client_of(values.get("id_token_hint", "")))
        if client is None:
            return _html(page(self.configuration.title, "<p>Close your browser to sign out.</p>"), 400)
        self._sessions.pop(request.cookies.get(COOKIE, ""), None)
        wanted = values.get("post_logout_redirect_uri", "")
        if wanted not in client.client.post_logout_redirect_uris:
            return _html(page(self.configuration.title, "<p>You are signed out.</p>"))
        answer = web.Response(status=303, headers={"Location": wanted + _state(values.get("state"))})
        answer.del_cookie(COOKIE)
        return answer

    def _client_of(self, hint: str) -> str:
        try:
            token = jwt.decode(hint, self.signer.key_set(), algorithms=[ALGORITHM])
        except (JoseError, ValueError):
            return ""
        return str(token.claims.get("aud", ""))

    def _asked(self, request: web.Request, values: dict[str, str]) -> Asked:
        return Asked(request.method, f"{self.issuer}{request.path}", request.headers, values)

    async def _posted(self, request: web.Request) -> Asked:
        return self._asked(request, {name: str(value) for name, value in (await request.post()).items()})

    def _wants_second_factor(self, request: web.Request) -> bool:
        return SECOND_FACTOR in request.query.get("acr_values", "").split()

    def _enough(self, request: web.Request) -> SignIn | None:
        """An earlier sign-in of this browser that is enough for what is asked."""
        sign_in = self._sessions.get(request.cookies.get(COOKIE, ""))
        if sign_in is None or "login" in request.query.get("prompt", "").split():
            return None
        if self._wants_second_factor(request) and sign_in.level != SECOND_FACTOR:
            return None
        oldest = request.query.get("max_age", "")
        limit = float(oldest) if oldest.isdigit() else self.configuration.lifetimes.sign_in_seconds
        return sign_in if self._now() - sign_in.at <= limit else None

    def _proved(self, form: dict[str, str], second_factor: bool) -> Person | None:
        person = self.people.get(form.get("username", ""))
        if person is None or not secrets.compare_digest(form.get("password", "").encode(), person.password.encode()):
            return None
        if second_factor and not (
            person.second_factor
            and secrets.compare_digest(form.get("code", "").encode(), person.second_factor.encode())
        ):
            return None
        return person


def _state(state: str | None) -> str:
    return f"?{urlencode({'state': state})}" if state else ""


def _web(answer: Answer) -> web.Response:
    return web.Response(status=answer.status, text=answer.body, headers=answer.headers)


def _html(text: str, status: int = 200) -> web.Response:
    return web.Response(
        status=status,
        text=text,
        content_type="text/html",
        headers={"X-Frame-Options": "DENY", "Cache-Control": "no-store"},
    )
