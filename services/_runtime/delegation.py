"""How a service shows a UNICORE site for whom it acts: delegation by a signed token. Holds no token of a user."""

from __future__ import annotations

import time
from collections import OrderedDict
from pathlib import Path
from typing import Protocol

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from pyunicore.credentials import JWTToken

from services._runtime.configuration import ConfigurationError
from services._runtime.vault import KeyFileError, read_secret_file

LIFETIME_SECONDS = 300
USED_SECONDS = 120.0
"""Tokens are signed anew well before they expire, so that a slow site or clock does not find them stale."""
KEPT = 10_000


class Credentials(Protocol):
    """Makes the `Authorization` header."""

    def authorization(self, identity: str, *, fresh: bool) -> str:
        """The header's value for a user as the site knows it; `fresh`: not one that was used before."""


class Delegation:
    """JWT of trusted delegation (`etd`), as UNICORE/X accepts from issuers its operator trusts."""

    def __init__(self, issuer_dn: str, key_file: Path) -> None:
        self._issuer_dn = issuer_dn
        self._key, self._algorithm = _load(key_file)
        self._made: OrderedDict[str, tuple[float, str]] = OrderedDict()

    def authorization(self, identity: str, *, fresh: bool) -> str:
        """See Credentials."""
        made = self._made.get(identity)
        now = time.monotonic()
        if made is not None and not fresh and now - made[0] < USED_SECONDS:
            return made[1]
        token = JWTToken(
            identity, self._issuer_dn, self._key, algorithm=self._algorithm, lifetime=LIFETIME_SECONDS, etd=True
        )
        header = str(token.get_auth_header())
        self._made[identity] = (now, header)
        self._made.move_to_end(identity)
        if len(self._made) > KEPT:
            self._made.popitem(last=False)
        return header


def _load(file: Path) -> tuple[RSAPrivateKey | EllipticCurvePrivateKey | Ed25519PrivateKey, str]:
    """The key and its JWS algorithm. Raises KeyFileError or ConfigurationError."""
    try:
        key = load_pem_private_key(read_secret_file(file), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise KeyFileError(f"{file}: not an unencrypted private key in PEM; make one with `farlab keys`") from None
    match key:
        case RSAPrivateKey():
            return key, "RS256"
        case Ed25519PrivateKey():
            return key, "EdDSA"
        case EllipticCurvePrivateKey() if key.curve.name == "secp256r1":
            return key, "ES256"
        case _:
            raise ConfigurationError(f"{file}: UNICORE accepts keys of RSA, P-256 and Ed25519; make one of these")
