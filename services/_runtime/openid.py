"""What an OpenID provider says of itself and in its ID tokens, believed only after it is checked. Asks nobody itself.

OpenID Connect Core 1.0, 3.1.3.7; JWS with asymmetric algorithms only, so that no public key serves as an HMAC secret
and no token goes unsigned.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import msgspec
from joserfc import jwt
from joserfc.errors import ExpiredTokenError, InvalidClaimError, InvalidKeyIdError, JoseError, MissingClaimError
from joserfc.jwk import JWKRegistry, KeySet
from msgspec import Meta

Algorithm = Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]
Url = Annotated[str, Meta(pattern=r"^https?://[^\s@?#]+$")]
Positive = Annotated[float, Meta(gt=0)]
Text = Annotated[str, Meta(min_length=1, max_length=255)]


class EmulatedUser(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A test user of the emulated provider and what the provider says of it.

    `second_factor` is the one-time code that user gives.
    """

    name: Text
    second_factor: str = ""
    claims: dict[str, Any] = msgspec.field(default_factory=dict)


class EmulatedProvider(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """For `farlab up` only: it starts a provider with these users and fills in the rest. Not for production."""

    users: list[EmulatedUser] = []


class SignInSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The table `[sign_in]`: the OpenID provider through which users sign in.

    `issuer` is the provider's name as it writes it, to the letter; everything else about it is discovered. The secret
    of `client_id` is in `client_secret_file`, 0600. `username_claim` is the claim that becomes the name in JupyterHub:
    it must never pass from one person to another. `algorithms` are those an ID token may be signed with, and
    `clock_skew_seconds` what its clock and ours may differ. Every `refresh_seconds` of use the sign-in is renewed: what
    the provider says by then holds, and who was locked out there is locked out here. `authorize_parameters` are sent
    along when a user signs in, as some providers want `prompt = "consent"` for a refresh token.
    `revoke_at_sign_out` tells the provider that the tokens are not needed any more.
    """

    issuer: Url = "http://127.0.0.1"
    client_id: Text = "farlab"
    client_secret_file: str = ""
    title: Text = "your institution"
    scopes: list[Text] = msgspec.field(default_factory=lambda: ["openid", "profile", "email", "offline_access"])
    username_claim: Text = "preferred_username"
    algorithms: Annotated[list[Algorithm], Meta(min_length=1)] = msgspec.field(
        default_factory=lambda: ["RS256", "PS256", "ES256", "EdDSA"]
    )
    clock_skew_seconds: Annotated[int, Meta(ge=0, le=300)] = 30
    refresh_seconds: Annotated[int, Meta(ge=1)] = 300
    timeout_seconds: Positive = 10.0
    ca_file: str = ""
    authorize_parameters: dict[str, str] = msgspec.field(default_factory=dict)
    revoke_at_sign_out: bool = True
    emulated: EmulatedProvider | None = None


class ProviderMetadata(msgspec.Struct, frozen=True, kw_only=True):
    """What discovery tells (OpenID Connect Discovery 1.0, 3), as far as it is used here."""

    issuer: str
    authorization_endpoint: Url
    token_endpoint: Url
    jwks_uri: Url
    userinfo_endpoint: Url | None = None
    revocation_endpoint: Url | None = None
    end_session_endpoint: Url | None = None


class UntrustedError(Exception):
    """What the provider said cannot be believed; the text says why, and holds nothing of a token."""


class UnknownKeyError(UntrustedError):
    """The token is signed with a key that was not published when the keys were read: they may have been rotated."""


def key_set(published: Mapping[str, Any]) -> KeySet:
    """The signing keys of a JWKS. Keys of kinds we do not know are left out (RFC 7517, 5)."""
    keys = []
    for each in published.get("keys", []):
        if isinstance(each, dict) and each.get("kty") != "oct" and each.get("use", "sig") == "sig":
            try:
                keys.append(JWKRegistry.import_key(each))
            except (JoseError, ValueError, TypeError, KeyError):
                continue
    return KeySet(keys)


class IdTokens:
    """Checks ID tokens of one provider for one client."""

    def __init__(self, settings: SignInSettings) -> None:
        self._settings = settings

    def claims(self, token: str, keys: KeySet, *, now: int, nonce: str | None, subject: str | None = None) -> Claims:
        """What a token says, once signature, issuer, audience, times and nonce are right.

        `nonce` is that of this very sign-in and `subject` who is expected; None where there is none, as at a refresh.
        Raises UntrustedError.
        """
        try:
            read = jwt.decode(token, keys, algorithms=[*self._settings.algorithms])
        except InvalidKeyIdError:
            raise UnknownKeyError("it is signed with a key that the provider does not publish") from None
        except (JoseError, ValueError, TypeError, KeyError, RecursionError) as error:
            raise UntrustedError(f"it is not signed as it must be ({type(error).__name__})") from None
        claims = read.claims
        self._check(claims, now, nonce, subject)
        return msgspec.convert({"every": claims, **claims}, Claims)

    def _check(self, claims: Mapping[str, Any], now: int, nonce: str | None, subject: str | None) -> None:
        settings = self._settings
        wanted: dict[str, Any] = {
            "iss": {"essential": True, "value": settings.issuer},
            "sub": {"essential": True},
            "aud": {"essential": True, "value": settings.client_id},
            "exp": {"essential": True},
            "iat": {"essential": True},
        }
        if nonce is not None:
            wanted["nonce"] = {"essential": True, "value": nonce}
        if subject is not None:
            wanted["sub"] = {"essential": True, "value": subject}
        audiences = claims.get("aud")
        if "azp" in claims or (isinstance(audiences, list) and len(audiences) > 1):
            wanted["azp"] = {"essential": True, "value": settings.client_id}
        try:
            jwt.JWTClaimsRegistry(now=now, leeway=settings.clock_skew_seconds, **wanted).validate(dict(claims))
            msgspec.convert(claims, _Shape)
        except ExpiredTokenError:
            raise UntrustedError(f"it has expired, or the clocks differ by more than {self._skew}") from None
        except MissingClaimError as error:
            raise UntrustedError(f"it does not say {error.description or 'enough'}"[:200]) from None
        except InvalidClaimError as error:
            raise UntrustedError(
                f"{_WRONG.get(error.claim, f'its {error.claim} is wrong')}{self._hint(error)}"
            ) from None
        except (JoseError, msgspec.ValidationError, ValueError, TypeError) as error:
            raise UntrustedError(f"it says what cannot be ({type(error).__name__})") from None

    @property
    def _skew(self) -> str:
        return f"{self._settings.clock_skew_seconds} s"

    def _hint(self, error: InvalidClaimError) -> str:
        return f", or the clocks differ by more than {self._skew}" if error.claim in ("iat", "nbf") else ""


_WRONG = {
    "iss": "another provider issued it",
    "aud": "it is meant for another client",
    "azp": "it was issued to another client",
    "nonce": "it belongs to another sign-in",
    "sub": "it is about another person",
    "iat": "it is of a time to come",
    "nbf": "it does not hold yet",
}


class _Shape(msgspec.Struct):
    """The kinds of what is read from claims."""

    sub: Text
    azp: str = ""
    nonce: str = ""
    acr: str = ""
    amr: Sequence[str] = ()
    auth_time: float | None = None


class Claims(msgspec.Struct, frozen=True):
    """What a believed ID token says: who signed in, how well, when; and all it says."""

    sub: str
    every: dict[str, Any]
    acr: str = ""
    amr: list[str] = []
    auth_time: float | None = None
