"""The provider's OAuth 2.0 and OpenID Connect: Authlib's authorization server on our store. Serves no HTTP itself."""

# ruff: noqa: ARG002 - the signatures are Authlib's
from __future__ import annotations

import json
import secrets
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import msgspec
from authlib.oauth2.rfc6749 import AuthorizationServer, OAuth2Payload, OAuth2Request, grants
from authlib.oauth2.rfc7009 import RevocationEndpoint
from authlib.oauth2.rfc7636 import CodeChallenge
from authlib.oauth2.rfc7662 import IntrospectionEndpoint
from authlib.oidc.core.grants import OpenIDCode, OpenIDToken

from emulators.identity_provider.configuration import Person
from emulators.identity_provider.grants import Code, Family, RegisteredClient, SignIn, Store, Token
from emulators.identity_provider.signing import Signer

AUTH_METHODS = ("client_secret_basic", "client_secret_post")


class Answer(msgspec.Struct, frozen=True):
    """What the protocol answers, for whoever serves HTTP."""

    status: int
    body: str
    headers: dict[str, str]


class Payload(OAuth2Payload):  # type: ignore[misc]
    """A request's parameters."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = dict(values)

    @property
    def data(self) -> dict[str, str]:
        """Each parameter once."""
        return self._values

    @property
    def datalist(self) -> defaultdict[str, list[str]]:
        """Each parameter as a list: repeated ones were refused before they came here."""
        return defaultdict(list, {name: [value] for name, value in self._values.items()})


class Asked(OAuth2Request):  # type: ignore[misc]
    """A request as Authlib reads it; `family` is what the tokens of its answer belong to."""

    def __init__(self, method: str, url: str, headers: Mapping[str, str], values: Mapping[str, str]) -> None:
        super().__init__(method, url, headers=headers)
        self.payload = Payload(values)
        self.family: Family | None = None

    @property
    def form(self) -> dict[str, str]:
        """Parameters again: at the endpoints that read a form, there is nothing else."""
        return dict(self.payload.data)

    @property
    def args(self) -> dict[str, str]:
        """The same for those that read a query."""
        return dict(self.payload.data)


def claims_of(person: Person) -> dict[str, Any]:
    """What clients are told of a person."""
    return {"sub": f"sub-of-{person.name}", "preferred_username": person.name, **person.claims}


class Authorization(AuthorizationServer):  # type: ignore[misc]
    """The endpoints' logic: who may have which tokens."""

    def __init__(self, store: Store, signer: Signer) -> None:
        super().__init__()
        self.store = store
        self.signer = signer
        self.issuer = ""
        self.register_token_generator("default", self._tokens)
        self.register_grant(_CodeGrant, [_IdToken(self), CodeChallenge(required=True)])
        self.register_grant(_RefreshGrant, [_RefreshedIdToken(self)])
        self.register_endpoint(_Revocation)
        self.register_endpoint(_Introspection)

    def query_client(self, client_id: str) -> RegisteredClient | None:
        """A registered client."""
        return self.store.clients.get(client_id)

    def save_token(self, token: dict[str, Any], request: Asked) -> None:
        """Remembers what an answer gives out."""
        if request.family is not None:
            self.store.add_tokens(request.family, token)

    def create_oauth2_request(self, request: Asked) -> Asked:
        """Requests come as Authlib wants them."""
        return request

    def handle_response(self, status: int, body: Any, headers: Any) -> Answer:
        """The answer as data."""
        text = json.dumps(body) if isinstance(body, dict) else str(body or "")
        return Answer(status, text, dict(headers))

    def send_signal(self, name: str, *args: Any, **kwargs: Any) -> None:
        """Nobody listens."""

    def _tokens(self, *, scope: str | None = None, **_: Any) -> dict[str, Any]:
        given: dict[str, Any] = {
            "token_type": "Bearer",
            "access_token": secrets.token_urlsafe(32),
            "expires_in": int(self.store.lifetimes.access_token_seconds),
            "scope": scope or "",
        }
        if "offline_access" in (scope or "").split():
            given["refresh_token"] = secrets.token_urlsafe(32)
        return given

    def id_token(self, client: RegisteredClient, family: Family) -> str:
        """An ID token for a client (OpenID Connect Core, 2)."""
        now, sign_in = int(self.store.now()), family.sign_in
        claims = {
            "iss": self.issuer,
            "aud": client.get_client_id(),
            "azp": client.get_client_id(),
            "iat": now,
            "exp": now + int(self.store.lifetimes.access_token_seconds),
            "auth_time": sign_in.at,
            "acr": sign_in.level,
            "amr": list(sign_in.methods),
            **claims_of(sign_in.person),
        }
        if family.nonce is not None:
            claims["nonce"] = family.nonce
        return self.signer.sign(claims)


class _CodeGrant(grants.AuthorizationCodeGrant):  # type: ignore[misc]
    TOKEN_ENDPOINT_AUTH_METHODS = AUTH_METHODS

    def save_authorization_code(self, code: str, request: Asked) -> None:
        sign_in: SignIn = request.user
        asked = request.payload.data
        self.server.store.add_code(Code(code, request.client.get_client_id(), sign_in, asked, request.scope))

    def query_authorization_code(self, code: str, client: RegisteredClient) -> Code | None:
        return self.server.store.code(code, client.get_client_id())  # type: ignore[no-any-return]

    def delete_authorization_code(self, authorization_code: Code) -> None:
        """`authenticate_user` has spent it already: tokens are remembered with what they came of."""

    def authenticate_user(self, authorization_code: Code) -> SignIn:
        self.request.family = self.server.store.spend(authorization_code)
        return authorization_code.sign_in


class _RefreshGrant(grants.RefreshTokenGrant):  # type: ignore[misc]
    TOKEN_ENDPOINT_AUTH_METHODS = AUTH_METHODS
    INCLUDE_NEW_REFRESH_TOKEN = True

    def authenticate_refresh_token(self, refresh_token: str) -> Token | None:
        return self.server.store.refreshable(refresh_token)  # type: ignore[no-any-return]

    def authenticate_user(self, refresh_token: Token) -> SignIn:
        self.request.family = refresh_token.family
        return refresh_token.family.sign_in

    def revoke_old_credential(self, refresh_token: Token) -> None:
        refresh_token.used = True


class _OurIdToken:
    def __init__(self, authorization: Authorization) -> None:
        super().__init__()
        self._authorization = authorization

    def encode_id_token(self, token: dict[str, Any], request: Asked) -> str:
        if request.family is None:
            raise RuntimeError("an ID token is made for tokens that were given out")
        return self._authorization.id_token(request.client, request.family)


class _IdToken(_OurIdToken, OpenIDCode):  # type: ignore[misc]
    def exists_nonce(self, nonce: str, request: Asked) -> bool:
        return False


class _RefreshedIdToken(_OurIdToken, OpenIDToken):  # type: ignore[misc]
    pass


class _Revocation(RevocationEndpoint):  # type: ignore[misc]
    CLIENT_AUTH_METHODS = AUTH_METHODS

    def query_token(self, token_string: str, token_type_hint: str | None) -> Token | None:
        return self.server.store.token(token_string)  # type: ignore[no-any-return]

    def revoke_token(self, token: Token, request: Asked) -> None:
        token.family.revoked = True


class _Introspection(IntrospectionEndpoint):  # type: ignore[misc]
    CLIENT_AUTH_METHODS = AUTH_METHODS

    def query_token(self, token_string: str, token_type_hint: str | None) -> Token | None:
        return self.server.store.token(token_string)  # type: ignore[no-any-return]

    def check_permission(self, token: Token, client: RegisteredClient, request: Asked) -> bool:
        return token.check_client(client)

    def introspect_token(self, token: Token) -> dict[str, Any]:
        family = token.family
        return {
            "active": True,
            "client_id": family.client_id,
            "scope": family.scope,
            "exp": int(token.expires_at),
            **{name: value for name, value in claims_of(family.sign_in.person).items() if name == "sub"},
        }
