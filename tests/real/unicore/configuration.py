"""The files a UNICORE/X of ours starts from: identity, trust, users, policy, partitions. Starts nothing."""

from __future__ import annotations

import hashlib
import json
import secrets
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.x509.oid import NameOID

from emulators import certificates

HOST = "127.0.0.1"
SITE = "REAL"
ISSUER = "CN=Farlab"
POLICY = Path(__file__).with_name("policy.xml")
SHELL = Path(__file__).with_name("shell.py")


class User(msgspec.Struct, frozen=True):
    """Somebody the site knows, and the password for Basic authentication."""

    dn: str
    uids: list[str]
    groups: list[str]
    password: str
    role: str = "user"


class Trust(msgspec.Struct, frozen=True):
    """Files: the CA that signed the site's certificate, and the key that may act for its users."""

    ca_file: Path
    delegation_key_file: Path


def write(
    folder: Path, *, port: int, users: list[User], userinfo_url: str = "", shell: list[str], settings: dict[str, str]
) -> Trust:
    """Writes everything into `folder`; `settings` override properties, `userinfo_url` takes users' bearer tokens in."""
    for name in ("data", "jobs", "logs", "policies"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    trust = _identities(folder)
    (folder / "policies" / "users.xml").write_bytes(POLICY.read_bytes())
    (folder / "pdp.config").write_text(
        f"localpdp.directory={folder}/policies\nlocalpdp.filesWildcard=*.xml\nlocalpdp.combiningAlg=first-applicable\n"
    )
    _users(folder, users)
    (folder / "idb.json").write_text(json.dumps(_partitions()))
    launcher = folder / "shell.sh"
    launcher.write_text("#!/bin/sh\nexec " + " ".join(f"'{word}'" for word in shell) + ' "$PPID" "$@"\n')
    launcher.chmod(0o755)
    (folder / "logging.properties").write_text(_LOGGING.format(folder=folder))
    properties = {**_properties(folder, port), **(_bearer(userinfo_url) if userinfo_url else {}), **settings}
    (folder / "unicorex.config").write_text("".join(f"{name}={value}\n" for name, value in properties.items()))
    return trust


def _properties(folder: Path, port: int) -> dict[str, str]:
    security = "container.security"
    return {
        "container.externalurl": f"https://{HOST}:{port}",
        "container.host": HOST,
        "container.port": str(port),
        "container.sitename": SITE,
        "container.onstartupSelftest": "false",
        "container.httpServer.fastRandom": "true",
        # Without a gateway the default is to demand a client certificate, which no user and no launcher has.
        "container.httpServer.requireClientAuthn": "false",
        "container.client.serverHostnameChecking": "NONE",
        f"{security}.gateway.enable": "false",
        f"{security}.credential.path": f"{folder}/credential.pem",
        f"{security}.truststore.type": "directory",
        f"{security}.truststore.directoryLocations.1": f"{folder}/tls/ca.pem",
        f"{security}.truststore.crlMode": "IGNORE",
        f"{security}.truststore.ocspMode": "IGNORE",
        f"{security}.accesscontrol.pdp": "eu.unicore.services.pdp.local.LocalHerasafPDP",
        f"{security}.accesscontrol.pdpConfig": f"{folder}/pdp.config",
        f"{security}.attributes.order": "FILE",
        f"{security}.attributes.FILE.class": "eu.unicore.services.aip.file.FileAttributeSource",
        f"{security}.attributes.FILE.file": f"{folder}/attributes.json",
        f"{security}.attributes.FILE.matching": "strict",
        f"{security}.rest.authentication.order": "FILE",
        f"{security}.rest.authentication.FILE.class": "eu.unicore.services.rest.security.FilebasedAuthenticator",
        f"{security}.rest.authentication.FILE.file": f"{folder}/passwords.txt",
        f"{security}.rest.jwt.trustedIssuerCert.1": f"{folder}/delegation.crt",
        "container.services.lifetime.default.JobManagement": "2592000",
        "persistence.directory": f"{folder}/data",
        "coreServices.targetsystemfactory.tsiMode": "embedded",
        "XNJS.filespace": f"{folder}/jobs",
        "XNJS.idbfile": f"{folder}/idb.json",
        "XNJS.localtsi.shell": f"{folder}/shell.sh",
        "XNJS.localtsi.workerThreads": "64",
    }


def _bearer(userinfo_url: str) -> dict[str, str]:
    """Users' own tokens: asked of the identity provider, the site's name for them made from what it says."""
    prefix = "container.security.rest.authentication"
    return {
        f"{prefix}.order": "FILE OAUTH",
        f"{prefix}.OAUTH.class": "eu.unicore.services.rest.security.OAuthAuthenticator",
        f"{prefix}.OAUTH.address": userinfo_url,
        f"{prefix}.OAUTH.identityAssign": '"CN=" + preferred_username',
    }


def _partitions() -> dict[str, object]:
    resources = {"Nodes": "1-4:1", "CPUsPerNode": "1-64:1", "GPUsPerNode": "0-4", "Memory": "1M-64G"}
    return {
        "Partitions": {
            "batch": {"IsDefaultPartition": "true", "Resources": {"Runtime": "1-86400:3600", **resources}},
            "devel": {"Resources": {"Runtime": "1-7200:3600", **resources, "Nodes": "1-1:1"}},
        },
        "Applications": [],
    }


def _users(folder: Path, users: list[User]) -> None:
    attributes = {user.dn: {"role": [user.role], "xlogin": user.uids, "group": user.groups} for user in users}
    (folder / "attributes.json").write_text(json.dumps(attributes))
    lines = []
    for user in users:
        salt = secrets.token_hex(16)
        # UNICORE/X's own format for its password file, weak as it is; the passwords live as long as a test.
        digest = hashlib.md5((salt + user.password).encode(), usedforsecurity=False).hexdigest()
        lines.append(f"{user.uids[0]}:{digest}:{salt}:{user.dn}\n")
    (folder / "passwords.txt").write_text("".join(lines))
    (folder / "passwords.txt").chmod(0o600)


def _identities(folder: Path) -> Trust:
    ca_file, certificate, key = certificates.make(folder / "tls", HOST, SITE)
    credential = folder / "credential.pem"
    credential.touch(mode=0o600)
    credential.write_bytes(certificate.read_bytes() + key.read_bytes())
    private = folder / "delegation.pem"
    if not private.exists():
        signer = Ed25519PrivateKey.generate()
        private.touch(mode=0o600)
        private.write_bytes(
            signer.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        (folder / "delegation.crt").write_bytes(_self_signed(signer))
    return Trust(ca_file, private)


def _self_signed(signer: Ed25519PrivateKey) -> bytes:
    """The certificate by which UNICORE/X knows a delegating issuer: only its subject and its key matter."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, ISSUER.removeprefix("CN="))])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(signer.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=30))
        .sign(signer, None)
    )
    return certificate.public_bytes(serialization.Encoding.PEM)


_LOGGING = """\
appender.file.name=file
appender.file.type=File
appender.file.fileName={folder}/logs/unicorex.log
appender.file.layout.type=PatternLayout
appender.file.layout.pattern=%d [%t] %-5p %c{{1}} - %m%n
rootLogger.level=info
rootLogger.appenderRef.file.ref=file
logger.security.name=unicore.security
logger.security.level=debug
logger.cxf.name=org.apache.cxf
logger.cxf.level=off
logger.pdp.name=org.herasaf
logger.pdp.level=error
"""
