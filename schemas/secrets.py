"""What is sealed into the vault, per recipient. Never an event, never in an event: a test plants canaries to see."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta


class Certificates(msgspec.Struct, frozen=True, kw_only=True):
    """The server's certificate under `internal_ssl`, as PEM texts."""

    keyfile: str
    certfile: str
    cafile: str


class JobSecrets(msgspec.Struct, frozen=True, kw_only=True):
    """For a launcher: the environment with JupyterHub's tokens, and what the server proves its session with."""

    environment: dict[str, str]
    proof_key: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$")]
    certificates: Certificates | None = None


class HmacProof(msgspec.Struct, frozen=True, kw_only=True, tag_field="proof", tag="hmac"):
    """For the tunneler: the server answers a challenge with HMAC-SHA256 under this key, in hexadecimal."""

    key: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$")]


class CertificateProof(msgspec.Struct, frozen=True, kw_only=True, tag_field="proof", tag="certificate"):
    """For the tunneler: the server presents the certificate with this SHA-256 fingerprint of its DER form."""

    sha256: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$")]


ServerProof = HmacProof | CertificateProof


class SignInSecrets(msgspec.Struct, frozen=True, kw_only=True):
    """For accounts: what a sign-in brought. `claims` are those of the ID token and of userinfo, which wins."""

    user: str
    subject: str
    claims: dict[str, Any]
    refresh_token: str = ""
