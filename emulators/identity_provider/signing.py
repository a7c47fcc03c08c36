"""The provider's signing keys and the ID tokens it signs, sound or, for tests, unsound. Knows no client and no user."""

from __future__ import annotations

import base64
import hmac
import json
from hashlib import sha256
from typing import Any, Literal

from joserfc import jwt
from joserfc.jwk import KeySet, RSAKey

ALGORITHM = "RS256"
KEPT_KEYS = 2
"""Keys that are published: the one that signs, and those before it whose tokens may still be on their way."""

Unsound = Literal[
    "", "unsigned", "forged", "confused", "expired", "of-tomorrow", "of-another-issuer", "for-another", "of-another-act"
]
"""What is wrong with the next ID tokens: no signature, a stranger's, an HMAC under the public key; past or future
times; another issuer, audience or nonce."""


def confused(claims: dict[str, Any], key: RSAKey) -> str:
    """A token with an HMAC under the public key's text. By hand, because every library refuses to make one."""
    signed = _by_hand({"alg": "HS256", "kid": key.kid}, claims)
    return (signed + b"." + _base64(hmac.digest(key.as_pem(private=False), signed, sha256))).decode()


def _by_hand(header: dict[str, Any], claims: dict[str, Any]) -> bytes:
    return b".".join(_base64(json.dumps(part).encode()) for part in (header, claims))


def _base64(text: bytes) -> bytes:
    return base64.urlsafe_b64encode(text).rstrip(b"=")


class Signer:
    """Signs with the newest key; `rotate` makes a new one. `unsound` makes what a client must refuse."""

    def __init__(self) -> None:
        self._keys: list[RSAKey] = []
        self.unsound: Unsound = ""
        self.rotate()

    def rotate(self) -> None:
        """A new key signs from now on; the one before it stays published."""
        self._keys = [RSAKey.generate_key(2048, auto_kid=True), *self._keys][:KEPT_KEYS]

    def published(self) -> dict[str, Any]:
        """The public halves (JWKS, RFC 7517)."""
        keys = [{**key.as_dict(private=False), "use": "sig", "alg": ALGORITHM} for key in self._keys]
        return {"keys": keys}

    def sign(self, claims: dict[str, Any]) -> str:
        """An ID token with these claims."""
        key = self._keys[0]
        match self.unsound:
            case "unsigned":
                return _by_hand({"alg": "none"}, claims).decode() + "."
            case "confused":
                return confused(claims, key)
            case "forged":
                key = RSAKey.generate_key(2048, {"kid": str(key.kid)})
            case "expired":
                claims = {**claims, "iat": claims["iat"] - 7200, "exp": claims["iat"] - 3600}
            case "of-tomorrow":
                claims = {**claims, "iat": claims["iat"] + 86_400, "exp": claims["exp"] + 86_400}
            case "of-another-issuer":
                claims = {**claims, "iss": "https://login.example.org"}
            case "for-another":
                claims = {**claims, "aud": "another-client"}
            case "of-another-act":
                claims = {**claims, "nonce": "the nonce of another sign-in"}
            case _:
                pass
        return jwt.encode({"alg": ALGORITHM, "kid": key.kid, "typ": "JWT"}, claims, key, algorithms=[ALGORITHM])

    def key_set(self) -> KeySet:
        """The keys that are published."""
        return KeySet([*self._keys])
