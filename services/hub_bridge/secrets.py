"""What the hub bridge seals into the vault when a session begins, and opens again after a restart. Writes no file."""

from __future__ import annotations

import secrets
import ssl
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

import msgspec

from schemas.base import HubName, SessionId
from schemas.secrets import CertificateProof, Certificates, HmacProof, JobSecrets
from schemas.session import CloudPlace, HpcPlace, Place
from services._runtime.vault import Vault

SERVICE = "hub-bridge"
LAUNCHERS: Mapping[type[Place], str] = {HpcPlace: "hpc-launcher", CloudPlace: "cloud-launcher"}
"""Who starts the server, by the kind of its place."""
TUNNELER = "tunneler"
ACCOUNTS = "accounts"


class HubSecrets(msgspec.Struct, frozen=True, kw_only=True):
    """For the hub bridge itself: the token the job holds, which a hub that starts again must not change."""

    hub: HubName
    api_token: str


async def seal(
    vault: Vault,
    session: SessionId,
    hub: HubName,
    environment: Mapping[str, str],
    certificates: Certificates | None,
    launcher: str = LAUNCHERS[HpcPlace],
) -> None:
    """Seals to each recipient what it needs of a session's secrets: the token, the job's environment, the proof."""
    key = secrets.token_hex(32)
    job = JobSecrets(environment=dict(environment), proof_key=key, certificates=certificates)
    proof = HmacProof(key=key) if certificates is None else CertificateProof(sha256=fingerprint(certificates.certfile))
    await vault.put(session, SERVICE, HubSecrets(hub=hub, api_token=environment.get("JUPYTERHUB_API_TOKEN", "")))
    await vault.put(session, launcher, job)
    await vault.put(session, TUNNELER, proof)


def fingerprint(certificate: str) -> str:
    """SHA-256 of a PEM certificate's DER form, in hexadecimal; of the first where several stand in the text."""
    begin, end = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
    first = begin + certificate.partition(begin)[2].partition(end)[0] + end
    return sha256(ssl.PEM_cert_to_DER_cert(first)).hexdigest()


def read_certificates(paths: Mapping[str, str]) -> Certificates:
    """The texts of the files JupyterHub made for a server under `internal_ssl`."""
    return Certificates(
        keyfile=Path(paths["keyfile"]).read_text(encoding="ascii"),
        certfile=Path(paths["certfile"]).read_text(encoding="ascii"),
        cafile=Path(paths["cafile"]).read_text(encoding="ascii"),
    )
