"""Who calls: Basic, delegation JWT, security sessions and user preferences, as UNICORE/X checks them."""

from __future__ import annotations

import base64
import binascii
import secrets
from collections.abc import Mapping
from pathlib import Path

import jwt
import msgspec
from aiohttp import web

from emulators.unicore_site.configuration import SiteConfiguration, SiteUser

ALGORITHMS = ["RS256", "RS512", "ES256", "EdDSA"]
SESSION_HEADER = "X-UNICORE-SecuritySession"
PREFERENCES_HEADER = "X-UNICORE-User-Preferences"
SESSION_LOST = 432


class Caller(msgspec.Struct, frozen=True):
    """An authenticated caller and the account and group chosen by preference."""

    dn: str
    uid: str
    group: str


CALLER = web.RequestKey("caller", Caller)
SESSION = web.RequestKey("session", str)


class RefusedError(Exception):
    """The call is refused with an HTTP status and UNICORE's error body."""

    def __init__(self, status: int, message: str) -> None:
        self.status = status
        self.message = message
        super().__init__(message)


class Doorkeeper:
    """Knows the site's users and open security sessions."""

    def __init__(self, configuration: SiteConfiguration) -> None:
        self._users = {user.dn: user for user in configuration.users}
        self._keys = {issuer: Path(file).read_bytes() for issuer, file in configuration.trusted.items()}
        self.sessions: dict[str, str] = {}

    def admit(self, headers: Mapping[str, str]) -> tuple[Caller, str]:
        """The caller and the id of its security session. Raises RefusedError."""
        session = headers.get(SESSION_HEADER)
        if session is not None:
            if session not in self.sessions:
                raise RefusedError(SESSION_LOST, f"No such security session: {session}")
            return self._as(self._users[self.sessions[session]], headers), session
        user = self._authenticated(headers.get("Authorization", ""))
        session = secrets.token_hex(16)
        self.sessions[session] = user.dn
        return self._as(user, headers), session

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
        for user in self._users.values():
            if (
                name in user.uids
                and user.password
                and secrets.compare_digest(password.encode(), user.password.encode())
            ):
                return user
        raise RefusedError(401, "Wrong user name or password.")

    def _delegated(self, token: str) -> SiteUser:
        try:
            issuer = jwt.decode(token, options={"verify_signature": False}).get("iss", "")
            if issuer not in self._keys:
                raise RefusedError(401, f"Issuer {issuer!r} is not trusted.")
            claims = jwt.decode(token, self._keys[issuer], algorithms=ALGORITHMS, options={"require": ["exp", "sub"]})
        except jwt.PyJWTError as error:
            raise RefusedError(401, f"Token is not valid: {error}") from None
        if str(claims.get("etd", "")).lower() != "true":
            raise RefusedError(401, "Token is not meant for delegation.")
        user = self._users.get(claims["sub"])
        if user is None:
            raise RefusedError(403, f"{claims['sub']} is not known at this site.")
        return user

    def _as(self, user: SiteUser, headers: Mapping[str, str]) -> Caller:
        preferences = dict(pair.split(":", 1) for pair in headers.get(PREFERENCES_HEADER, "").split(",") if ":" in pair)
        uid = preferences.get("uid", user.uids[0])
        group = preferences.get("group", user.groups[0] if user.groups else "")
        if uid not in user.uids:
            raise RefusedError(403, f"Requested uid {uid!r} is not available for {user.dn}.")
        if group and group not in user.groups:
            raise RefusedError(403, f"Requested group {group!r} is not available for {user.dn}.")
        return Caller(user.dn, uid, group)


def caller_of(request: web.Request) -> Caller:
    """The caller the middleware admitted."""
    return request[CALLER]
