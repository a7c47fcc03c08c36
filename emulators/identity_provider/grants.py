"""What the provider has given out: codes, and families of tokens that rotate and end together. Speaks no protocol."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any

import msgspec
from authlib.oauth2.rfc6749 import AuthorizationCodeMixin, ClientMixin, TokenMixin

from emulators.identity_provider.configuration import Client, Lifetimes, Person

SCOPES = ("openid", "profile", "email", "offline_access")
GRANT_TYPES = ("authorization_code", "refresh_token")


class SignIn(msgspec.Struct, frozen=True):
    """How and when a person proved who they are."""

    person: Person
    at: int
    methods: tuple[str, ...]

    @property
    def level(self) -> str:
        """The `acr` of this sign-in."""
        return "mfa" if "otp" in self.methods else "password"


class RegisteredClient(ClientMixin):  # type: ignore[misc]
    """A configured client, as Authlib asks about it."""

    def __init__(self, client: Client) -> None:
        self.client = client

    def get_client_id(self) -> str:
        """Its name."""
        return self.client.client_id

    def get_default_redirect_uri(self) -> str:
        """Where users go back to when the client does not say."""
        return self.client.redirect_uris[0]

    def get_allowed_scope(self, scope: str | None) -> str:
        """Of the scopes it asks for, those there are."""
        return " ".join(each for each in (scope or "").split() if each in SCOPES)

    def check_redirect_uri(self, redirect_uri: str) -> bool:
        """Whether users may be sent there."""
        return redirect_uri in self.client.redirect_uris

    def check_client_secret(self, client_secret: str) -> bool:
        """Whether it is the client that asks."""
        return secrets.compare_digest(client_secret.encode(), self.client.client_secret.encode())

    def check_endpoint_auth_method(self, method: str, endpoint: str) -> bool:
        """Every client has a secret, and must use it."""
        del endpoint
        return method in ("client_secret_basic", "client_secret_post")

    def check_response_type(self, response_type: str) -> bool:
        """Codes only: no token passes through a browser."""
        return response_type == "code"

    def check_grant_type(self, grant_type: str) -> bool:
        """Codes and refresh tokens."""
        return grant_type in GRANT_TYPES


class Code(AuthorizationCodeMixin):  # type: ignore[misc]
    """One authorization code, as Authlib asks about it."""

    def __init__(self, value: str, client_id: str, sign_in: SignIn, asked: dict[str, str], scope: str) -> None:
        self.value = value
        self.client_id = client_id
        self.sign_in = sign_in
        self.asked = asked
        self.scope = scope
        self.code_challenge = asked.get("code_challenge")
        self.code_challenge_method = asked.get("code_challenge_method")

    def get_redirect_uri(self) -> str | None:
        """Where it was sent."""
        return self.asked.get("redirect_uri")

    def get_scope(self) -> str:
        """What it is good for."""
        return self.scope


class Family:
    """All tokens that came of one sign-in of one client: refreshed one after another, revoked together."""

    def __init__(self, client_id: str, sign_in: SignIn, scope: str, nonce: str | None) -> None:
        self.client_id = client_id
        self.sign_in = sign_in
        self.scope = scope
        self.nonce = nonce
        self.revoked = False


class Token(TokenMixin):  # type: ignore[misc]
    """An access or refresh token, as Authlib asks about it."""

    def __init__(self, family: Family, kind: str, expires_at: float, now: Callable[[], float]) -> None:
        self.family = family
        self.kind = kind
        self.expires_at = expires_at
        self.used = False
        self._now = now

    def check_client(self, client: RegisteredClient) -> bool:
        """Whether it was given to this client."""
        return self.family.client_id == client.get_client_id()

    def get_scope(self) -> str:
        """What it is good for."""
        return self.family.scope

    def get_expires_in(self) -> int:
        """How long it holds yet, in seconds."""
        return max(int(self.expires_at - self._now()), 0)

    def is_expired(self) -> bool:
        """Whether its time is over."""
        return self._now() >= self.expires_at

    def is_revoked(self) -> bool:
        """Whether it ended before its time."""
        return self.family.revoked or self.used


class Store:
    """Everything given out, in memory. `now` is the provider's clock, in seconds."""

    def __init__(self, clients: list[Client], lifetimes: Lifetimes, now: Callable[[], float]) -> None:
        self.clients = {client.client_id: RegisteredClient(client) for client in clients}
        self.lifetimes = lifetimes
        self.now = now
        self._codes: dict[str, tuple[Code, float]] = {}
        self._spent: dict[str, Family] = {}
        self._tokens: dict[str, Token] = {}

    def add_code(self, code: Code) -> None:
        """Gives out a code."""
        self._codes[code.value] = (code, self.now() + self.lifetimes.code_seconds)

    def code(self, value: str, client_id: str) -> Code | None:
        """A code that holds. One that comes a second time ends all that came of it (RFC 6749, 4.1.2)."""
        if value in self._spent:
            self._spent[value].revoked = True
        code, until = self._codes.get(value, (None, 0.0))
        return code if code is not None and code.client_id == client_id and self.now() < until else None

    def spend(self, code: Code) -> Family:
        """Turns a code into a family of tokens."""
        self._codes.pop(code.value, None)
        family = Family(code.client_id, code.sign_in, code.scope, code.asked.get("nonce"))
        self._spent[code.value] = family
        return family

    def add_tokens(self, family: Family, given: dict[str, Any]) -> None:
        """Remembers the tokens of an answer."""
        lifetimes = self.lifetimes
        for kind, seconds in (
            ("access_token", lifetimes.access_token_seconds),
            ("refresh_token", lifetimes.refresh_token_seconds),
        ):
            if value := given.get(kind):
                self._tokens[value] = Token(family, kind, self.now() + seconds, self.now)

    def token(self, value: str, kind: str | None = None) -> Token | None:
        """A token that was given out, whatever has become of it."""
        token = self._tokens.get(value)
        return token if token is not None and kind in (None, token.kind) else None

    def refreshable(self, value: str) -> Token | None:
        """A refresh token that holds. One that comes a second time was stolen from somebody: its family ends."""
        token = self.token(value, "refresh_token")
        if token is None or token.is_expired():
            return None
        if token.used:
            token.family.revoked = True
        return None if token.is_revoked() else token
