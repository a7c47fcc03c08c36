"""An emulated UNICORE site and login node in process, with the keys to reach them. Omits nothing of the emulators."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncssh
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

from emulators.login_node.node import LoginNode, LoginNodeConfiguration
from emulators.unicore_site.configuration import Queue, SiteConfiguration, SiteUser
from emulators.unicore_site.site import UnicoreSite

ISSUER = "CN=Farlab"
ADA = "CN=Ada"


def delegation_key(folder: Path) -> tuple[Path, Path]:
    """Files of a fresh private key (0600) and its public key."""
    key = ed25519.Ed25519PrivateKey.generate()
    private, public = folder / "delegation.pem", folder / "delegation.pub.pem"
    private.touch(mode=0o600)
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    public.write_bytes(
        key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    return private, public


@asynccontextmanager
async def unicore_site(folder: Path, *, queue_seconds: float = 0.05, **changes: object) -> AsyncIterator[UnicoreSite]:
    """A site whose trusted delegation key is `folder/delegation.pem`; users Ada (ada1) and Ben (ben1)."""
    public = folder / "delegation.pub.pem"
    if not public.exists():
        delegation_key(folder)
    configuration = SiteConfiguration(
        folder=str(folder / "site"),
        queues={"batch": Queue(max_nodes=4, gpus_per_node=4), "devel": Queue(max_nodes=1, max_runtime_seconds=7200)},
        queue_seconds=queue_seconds,
        users=[
            SiteUser(dn=ADA, uids=["ada1", "ada2"], groups=["ztrain"], password="secret-of-ada"),
            SiteUser(dn="CN=Ben", uids=["ben1"], groups=["ztrain"], password="secret-of-ben"),
        ],
        trusted={ISSUER: str(public)},
        **changes,  # type: ignore[arg-type]
    )
    async with UnicoreSite(configuration) as site:
        yield site


def client_key(folder: Path) -> str:
    """The public key of `folder/id_ed25519`, made where there is none."""
    key_file = folder / "id_ed25519"
    if not key_file.exists():
        key = asyncssh.generate_private_key("ssh-ed25519")
        key_file.touch(mode=0o600)
        key_file.write_bytes(key.export_private_key())
        (folder / "id_ed25519.pub").write_bytes(key.export_public_key())
    return (folder / "id_ed25519.pub").read_text()


@asynccontextmanager
async def login_node(folder: Path, **changes: object) -> AsyncIterator[LoginNode]:
    """A login node that lets `folder/id_ed25519` in and reaches 127.0.0.0/8."""
    values: dict[str, object] = {
        "folder": str(folder / "login"),
        "authorized_keys": [client_key(folder)],
        "networks": ["127.0.0.0/8"],
        **changes,
    }
    async with LoginNode(LoginNodeConfiguration(**values)) as node:  # type: ignore[arg-type]
        yield node
