"""Who calls: Basic, delegation JWT, security sessions and user preferences, as UNICORE/X checks them."""

from __future__ import annotations

import base64
import binascii
import secrets
import time
from collections.abc import Mapping
from pathlib import Path

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
MOST_SESSIONS = 5
"""A user's sixth session ends the first."""


class Caller(msgspec.Struct, frozen=True):
    """An authenticated caller and the account and group chosen by preference."""

    dn: str
    uid: str
    group: str


class Session:
    """An open security session. Preferences, once given, hold for its later calls too."""

    def __init__(self, user: SiteUser, seconds: float) -> None:
        self.id = secrets.token_hex(16)
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
        self._bad_token = 403 if configuration.manner == "unicorex" else 401
        self._session_seconds = configuration.session_seconds
        self.users = {user.dn: user for user in configuration.users}
        self._keys = {issuer: Path(file).read_bytes() for issuer, file in configuration.trusted.items()}
        self.sessions: dict[str, Session] = {}

    def admit(self, headers: Mapping[str, str]) -> tuple[Caller, Session]:
        """The caller and its security session. Raises RefusedError."""
        wanted = headers.get(SESSION_HEADER)
        if wanted is None:
            session = self._open(self._authenticated(headers.get("Authorization", "")))
        else:
            found = self.sessions.get(wanted)
            if found is None or found.left_seconds() <= 0:
                self.sessions.pop(wanted, None)
                raise RefusedError(SESSION_LOST, "No such security session.")
            session = found
        session.preferences |= _preferences(headers.get(PREFERENCES_HEADER, ""))
        return _as(session), session

    def _open(self, user: SiteUser) -> Session:
        session = Session(user, self._session_seconds)
        mine = [each.id for each in self.sessions.values() if each.user is user]
        for oldest in mine[: len(mine) + 1 - MOST_SESSIONS]:
            del self.sessions[oldest]
        self.sessions[session.id] = session
        return session

    def _authenticated(self, authorization: str) -> SiteUser:
        scheme, _, credential = authorization.partition(" ")
        if scheme.lower() == "basic":
            return self._basic(credential)
        if scheme.lower() == "bearer":
            return self._delegated(credential)
        raise RefusedError(401, "Authentication is required.")

    def _basic(self, credential: str) -> SiteUser:
        try:
            name, _, password = base64.b64decode(credential, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            raise RefusedError(401, "Malformed credentials.") from None
        for user in self.users.values():
            if (
                name in user.uids
                and user.password
                and secrets.compare_digest(password.encode(), user.password.encode())
            ):
                return user
        raise RefusedError(401, "Wrong user name or password.")

    def _delegated(self, token: str) -> SiteUser:
        try:
            issuer = str(jwt.decode(token, options={"verify_signature": False}).get("iss", ""))
            if issuer not in self._keys:
                raise RefusedError(self._bad_token, "The token's issuer is not trusted.")
            claims = jwt.decode(token, self._keys[issuer], algorithms=ALGORITHMS, options={"require": ["exp", "sub"]})
        except (jwt.PyJWTError, TypeError, ValueError) as error:
            raise RefusedError(self._bad_token, f"Token is not valid: {error}") from None
        if str(claims.get("etd", "")).lower() != "true":
            raise RefusedError(self._bad_token, "Token is not meant for delegation.")
        user = self.users.get(str(claims["sub"]))
        if user is None:
            raise RefusedError(403, "The user is not known at this site.")
        return user


def _preferences(header: str) -> dict[str, str]:
    """Raises RefusedError for a header that is not `name:value` pairs."""
    if not header:
        return {}
    pairs = [pair.split(":") for pair in header.split(",")]
    if any(len(pair) != 2 for pair in pairs):
        raise RefusedError(403, "Invalid format for user preference.")
    return {name.lower(): value for name, value in pairs}


def _as(session: Session) -> Caller:
    user, preferred = session.user, session.preferences
    uid = preferred.get("uid", user.uids[0])
    group = preferred.get("group", preferred.get("pgid", user.groups[0] if user.groups else ""))
    if uid not in user.uids:
        raise RefusedError(403, f"Requested uid {uid!r} is not available for {user.dn}.")
    if group and group not in user.groups:
        raise RefusedError(403, f"Requested group {group!r} is not available for {user.dn}.")
    return Caller(user.dn, uid, group)


def caller_of(request: web.Request) -> Caller:
    """The caller the middleware admitted."""
    return request[CALLER]
