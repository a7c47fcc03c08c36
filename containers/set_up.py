"""Makes what the containers of compose.yaml keep to themselves: keys, certificates, passwords, a folder for each.

Run before all others. What is there stays, so that it may run at every start. Each container gets its own folder and
no other, so a service that is broken into gives away its own secrets and nobody else's.
"""

from __future__ import annotations

import datetime
import os
import secrets
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import asyncssh
import tomli_w
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from services._runtime.vault import make_keys, write_secret_file
from services.operator_cli.nats_config import SERVICES, make_nkeys

ROOT = Path("/secrets")
CONFIGURATION = Path(os.environ["FARLAB_CONFIG"])
MASTER = Path("/run/farlab")
"""The operator's folder, where the keys of all services are made: what to back up."""
NATS = ("nats-1", "nats-2", "nats-3")
FOLDERS = {"hub-bridge": ROOT / "hub", "operator-cli": MASTER}
"""The folders of services whose containers are named otherwise."""
LOGIN = "login"
HUB_AT_SITE = f"{LOGIN}.site:8081"
COMMAND = 'restrict,command="/usr/local/libexec/farlab-slurm"'
TUNNELS = 'restrict,port-forwarding,permitopen="compute-1:*",permitopen="compute-2:*"'
SITE_ACCOUNTS = ("lovelace1", "johnson1", "farlab-queue")


def secret(folder: Path, name: str, *shared_with: Path, size: int = 32) -> str:
    """A secret of this installation of so many random bytes, in a file of every container that needs it."""
    file = folder / name
    if not file.exists():
        write_secret_file(file, secrets.token_hex(size).encode())
    for each in shared_with:
        give(file, each)
    return file.read_text()


def give(file: Path, folder: Path) -> None:
    """A copy of a file for another container, 0600 as all of them."""
    folder.mkdir(mode=0o700, exist_ok=True)
    write_secret_file(folder / file.name, file.read_bytes())


def folder_of(service: str) -> Path:
    """What the container of a service sees as /run/farlab."""
    return FOLDERS.get(service, ROOT / service)


def service_keys() -> None:
    """Sealing keys, keys for event ids and nkeys: each service its own, and everybody's public ones."""
    make_keys(MASTER / "keys")
    make_nkeys(MASTER / "nkeys")
    for service in SERVICES:
        if (folder := folder_of(service)) == MASTER:
            continue
        for file in (MASTER / "keys").iterdir():
            if file.name.startswith(f"{service}.") or file.name.endswith(".public.json"):
                give(file, folder / "keys")
        give(MASTER / "nkeys" / f"{service}.nk", folder / "nkeys")


def certificates() -> None:
    """An authority for NATS and one certificate for its three servers, good for clients and between them."""
    ca_file, certificate_file, key_file = (ROOT / "nats" / each for each in ("ca.pem", "server.pem", "server.key"))
    if not key_file.exists():
        ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
        authority = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Farlab NATS")])
        ca = (
            _certificate(authority, authority, ca_key, path=0)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(ca_key.public_key()), critical=False)
            .sign(ca_key, hashes.SHA256())
        )
        server = (
            _certificate(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "nats")]), authority, key, path=None)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(each) for each in NATS]), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
            .sign(ca_key, hashes.SHA256())
        )
        ca_file.write_bytes(ca.public_bytes(serialization.Encoding.PEM))
        certificate_file.write_bytes(server.public_bytes(serialization.Encoding.PEM))
        pem = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        write_secret_file(key_file, key.private_bytes(*pem))
    for service in SERVICES:
        give(ca_file, folder_of(service))


def _certificate(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, *, path: int | None
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=3650))
        .add_extension(x509.BasicConstraints(ca=path is not None, path_length=path), critical=True)
    )


def broker() -> None:
    """`nats.conf` of each server, with the permissions of every service."""
    files = {name: f"/run/farlab/{name}" for name in ("ca.pem", "server.pem", "server.key")}
    for name in NATS:
        folder = ROOT / "nats" / name
        command = ["farlab", "nats-config", "--config", str(CONFIGURATION), "--to", str(folder), "--name", name]
        command += ["--host", "0.0.0.0", "--data", "/var/lib/farlab", "--monitor", "127.0.0.1:8222"]  # noqa: S104
        command += ["--certificate", files["server.pem"], "--key", files["server.key"], "--ca", files["ca.pem"]]
        for other in NATS:
            command += ["--route", f"{other}:6222"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def site() -> None:
    """Keys of the site: munge's, the login node's, and what the launcher's and the tunneler's keys may do there."""
    munge = ROOT / "munge" / "munge.key"
    if not munge.exists():
        write_secret_file(munge, os.urandom(128))
    host = _ssh_key(ROOT / "login" / "ssh_host_ed25519_key")
    slurm, tunnel = _ssh_key(ROOT / "hpc-launcher" / "slurm_key"), _ssh_key(ROOT / "tunneler" / "tunnel_key")
    authorized = ROOT / "login" / "authorized"
    authorized.mkdir(exist_ok=True)
    for account in SITE_ACCOUNTS:
        (authorized / account).write_text(f"{COMMAND} {slurm}")
    (authorized / "farlab-tunnel").write_text(f'{TUNNELS},permitlisten="{HUB_AT_SITE}" {tunnel}')
    for service in ("hpc-launcher", "tunneler"):
        (ROOT / service / "known_hosts").write_text(f"{LOGIN} {host}")


def _ssh_key(file: Path) -> str:
    """The public half of the key in a file, made where it is missing."""
    if not file.exists():
        write_secret_file(file, asyncssh.generate_private_key("ssh-ed25519").export_private_key())
    return asyncssh.read_private_key(file).export_public_key().decode()


def identity_provider() -> None:
    """The emulated provider's configuration: the people of `people.toml`, with one password for all of them."""
    tables: dict[str, Any] = tomllib.loads(CONFIGURATION.read_text())
    home = tables["hub_bridge"]["public_url"].rstrip("/")
    client = {
        "client_id": tables["sign_in"]["client_id"],
        "client_secret": secret(ROOT / "identity", "client.secret", ROOT / "hub", ROOT / "accounts", MASTER),
        "redirect_uris": [f"{home}/hub/oauth_callback"],
        "post_logout_redirect_uris": [f"{home}/"],
    }
    password = secret(MASTER, "password", size=6)
    people = tomllib.loads(CONFIGURATION.with_name("people.toml").read_text())["people"]
    table = {
        "host": "0.0.0.0",  # noqa: S104 - in a container, behind the port that compose.yaml publishes
        "port": 8090,
        "issuer": tables["sign_in"]["issuer"],
        "clients": [client],
        "people": [{**person, "password": password} for person in people],
    }
    write_secret_file(ROOT / "identity" / "identity_provider.toml", tomli_w.dumps(table).encode())


def main() -> None:
    """All of it, in the order in which one needs the other."""
    service_keys()
    certificates()
    broker()
    site()
    identity_provider()
    secret(ROOT / "hub", "proxy.token", ROOT / "proxy")
    secret(MASTER, "operator.token", ROOT / "hub")
    password = secret(ROOT / "postgresql", "password")
    database = f"postgresql+psycopg://jupyterhub:{password}@postgresql/jupyterhub"
    write_secret_file(ROOT / "hub" / "database.url", database.encode())


if __name__ == "__main__":
    main()
