"""Who calls: Basic, delegation JWT, users' own tokens, security sessions and preferences, as UNICORE/X checks them.

Wrong credentials are a 403 without words; who shows none, or is nobody the site knows, is anonymous.
"""

from __future__ import annotations

import base64
import binascii
import secrets
import time
from collections.abc import Mapping
from pathlib import Path

import aiohttp
import jwt
import msgspec
from aiohttp import web

from emulators.unicore_site.configuration import SiteConfiguration, SiteUser
from emulators.unicore_site.refusals import RefusedError

ALGORITHMS = ["RS256", "RS512", "ES256", "EdDSA"]
SESSION_HEADER = "X-UNICORE-SecuritySession"
LIFETIME_HEADER = "X-UNICORE-SecuritySession-Lifetime"
PREFERENCES_HEADER = "X-UNICORE-User-Preferences"
SESSION_LOST = 432
ANONYMOUS = "CN=ANONYMOUS,O=UNKNOWN,OU=UNKNOWN"
USERINFO_SECONDS = 10.0
MOST_SESSIONS = 5
"""A user's sixth session ends the first."""


class Caller(msgspec.Struct, frozen=True):
    """A caller and the account and group chosen by preference; `known` tells users of the site from everybody else."""

    dn: str
    uid: str
    group: str
    known: bool


class Session:
    """An open security session. Preferences, once given, hold for its later calls too."""

    def __init__(self, dn: str, user: SiteUser | None, seconds: float) -> None:
        self.id = secrets.token_hex(16)
        self.dn = dn
        self.user = user
        self.preferences: dict[str, str] = {}
        self._until = time.monotonic() + seconds

    def left_seconds(self) -> float:
        """How long it lives on."""
        return self._until - time.monotonic()


CALLER = web.RequestKey("caller", Caller)
SESSION = web.RequestKey("session", Session)


class Doorkeeper:
    """Knows the site's users and open security sessions."""

    def __init__(self, configuration: SiteConfiguration) -> None:
        self._userinfo_url = configuration.userinfo_url
        self._session_seconds = configuration.session_seconds
        self.users = {user.dn: user for user in configuration.users}
        self._keys = {issuer: Path(file).read_bytes() for issuer, file in configuration.trusted.items()}
        self.sessions: dict[str, Session] = {}

    async def admit(self, headers: Mapping[str, str]) -> tuple[Caller, Session]:
        """The caller and its security session. Raises RefusedError."""
        wanted = headers.get(SESSION_HEADER)
        if wanted is None:
            session = self._open(await self._authenticated(headers.get("Authorization", "")))
        else:
            found = self.sessions.get(wanted)
            if found is None or found.left_seconds() <= 0:
                self.sessions.pop(wanted, None)
                raise RefusedError(SESSION_LOST, "")
            session = found
        session.preferences |= _preferences(headers.get(PREFERENCES_HEADER, ""))
        return _as(session), session

    def _open(self, dn: str) -> Session:
        session = Session(dn, self._user(dn), self._session_seconds)
        mine = [each.id for each in self.sessions.values() if each.dn == dn]
        for oldest in mine[: len(mine) + 1 - MOST_SESSIONS]:
            del self.sessions[oldest]
        self.sessions[session.id] = session
        return session

    def _user(self, dn: str) -> SiteUser | None:
        """Distinguished names are compared without regard to case."""
        return next((user for name, user in self.users.items() if name.casefold() == dn.casefold()), None)

    async def _authenticated(self, authorization: str) -> str:
        """The caller's distinguished name. Raises RefusedError."""
        scheme, _, credential = authorization.partition(" ")
        if scheme.lower() == "basic":
            return self._basic(credential)
        if scheme.lower() == "bearer":
            return self._delegated(credential) or await self._own(credential)
        return ANONYMOUS

    def _basic(self, credential: str) -> str:
        try:
            name, _, password = base64.b64decode(credential, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            raise RefusedError(403, "") from None
        for dn, user in self.users.items():
            if (
                name in user.uids
                and user.password
                and secrets.compare_digest(password.encode(), user.password.encode())
            ):
                return dn
        raise RefusedError(403, "")

    def _delegated(self, token: str) -> str:
        """For whom a delegation token speaks; empty when it is none."""
        try:
            claims = jwt.decode(token, options={"verify_signature": False})
        except (jwt.PyJWTError, TypeError, ValueError):
            return ""
        if str(claims.get("etd", "")).lower() != "true":
            return ""
        key = self._keys.get(str(claims.get("iss", "")))
        if key is None:
            raise RefusedError(403, "")
        try:
            jwt.decode(token, key, algorithms=ALGORITHMS, options={"require": ["exp", "sub"]})
        except (jwt.PyJWTError, TypeError, ValueError):
            raise RefusedError(403, "") from None
        return str(claims["sub"])

    async def _own(self, token: str) -> str:
        """Whose token this is, by the word of the identity provider."""
        if not self._userinfo_url:
            return ANONYMOUS
        headers = {"Authorization": f"Bearer {token}"}
        try:
            async with (
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=USERINFO_SECONDS)) as http,
                http.get(self._userinfo_url, headers=headers) as answer,
            ):
                if answer.status == 200:
                    return f"CN={(await answer.json())['preferred_username']}"
        except (aiohttp.ClientError, TimeoutError, ValueError, KeyError):
            raise RefusedError(403, "") from None
        raise RefusedError(403, "")


def _preferences(header: str) -> dict[str, str]:
    """Raises RefusedError for a header that is not `name:value` pairs."""
    if not header:
        return {}
    pairs = [pair.split(":") for pair in header.split(",")]
    if any(len(pair) != 2 for pair in pairs):
        raise RefusedError(403, "")
    return {name.lower(): value for name, value in pairs}


def _as(session: Session) -> Caller:
    user, preferred = session.user, session.preferences
    if user is None:
        return Caller(session.dn, "", "", known=False)
    uid = preferred.get("uid", user.uids[0])
    group = preferred.get("group", preferred.get("pgid", user.groups[0] if user.groups else ""))
    if uid not in user.uids or (group and group not in user.groups):
        raise RefusedError(403, "")
    return Caller(user.dn, uid, group, known=True)


def caller_of(request: web.Request) -> Caller:
    """The caller the middleware admitted."""
    return request[CALLER]
