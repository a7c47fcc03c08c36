"""Kubernetes' own control plane without a node: etcd, the API server, its controllers. Needs the three programs.

They are looked for where `KUBEBUILDER_ASSETS` says, as controller-runtime's envtest does. Pods stay where no scheduler
takes them.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from kubernetes.aio import client

from emulators import certificates
from services.operator_cli.supervisor import dying_with
from tests.real.machine import free_port, until
from tests.support.kubernetes_cluster import until as seen

PROGRAMS = ("etcd", "kube-apiserver", "kube-controller-manager")
HOST = "127.0.0.1"
START_SECONDS = 90.0


def assets() -> Path:
    """Where the programs are looked for."""
    return Path(os.environ.get("KUBEBUILDER_ASSETS") or "/usr/local/kubebuilder/bin")


def missing() -> str:
    """Why there is no real cluster here, or nothing."""
    if os.environ.get("KUBECONFIG"):
        return ""
    lacking = [name for name in PROGRAMS if not (assets() / name).exists()]
    return f"KUBECONFIG is not set, and {assets()} has no {', '.join(lacking)}" if lacking else ""


REAL = [
    pytest.mark.real,
    pytest.mark.xdist_group("kubernetes"),
    pytest.mark.skipif(bool(missing()) and not os.environ.get("FARLAB_NO_SKIPS"), reason=missing()),
]
"""The marks of a parameter that stands for a real cluster."""


@pytest.fixture(scope="session")
def real_kubeconfig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The kubeconfig of a real cluster: that of KUBECONFIG, or of a control plane that this starts."""
    if file := os.environ.get("KUBECONFIG"):
        yield Path(file)
        return
    assert not missing(), missing()
    with control_plane(tmp_path_factory.mktemp("control-plane")) as kubeconfig:
        yield kubeconfig


@contextlib.contextmanager
def control_plane(folder: Path) -> Iterator[Path]:
    """A control plane on free ports of loopback, with its data in the folder; the kubeconfig of its administrator."""
    ca_file, certificate, key = certificates.make(folder / "tls", HOST, "kubernetes")
    token, accounts_key = secrets.token_hex(24), _accounts_key(folder / "accounts.key")
    tokens = folder / "tokens.csv"
    tokens.touch(mode=0o600)
    tokens.write_text(f"{token},admin,admin,system:masters\n")
    etcd, peer, port, controllers = (free_port() for _ in range(4))
    url = f"https://{HOST}:{port}"
    kubeconfig = folder / "kubeconfig"
    kubeconfig.touch(mode=0o600)
    kubeconfig.write_text(json.dumps(_kubeconfig(url, ca_file, token)))
    etcd_url, peer_url = f"http://{HOST}:{etcd}", f"http://{HOST}:{peer}"
    commands = {
        "etcd": [
            *(f"--data-dir={folder}/etcd", "--unsafe-no-fsync", "--log-level=error", "--name=etcd"),
            *(f"--listen-client-urls={etcd_url}", f"--advertise-client-urls={etcd_url}"),
            *(f"--listen-peer-urls={peer_url}", f"--initial-advertise-peer-urls={peer_url}"),
            f"--initial-cluster=etcd={peer_url}",
        ],
        "kube-apiserver": [
            *(f"--etcd-servers={etcd_url}", f"--bind-address={HOST}", f"--secure-port={port}"),
            *(f"--tls-cert-file={certificate}", f"--tls-private-key-file={key}", f"--token-auth-file={tokens}"),
            *("--authorization-mode=Node,RBAC", "--service-cluster-ip-range=10.96.0.0/16", "--profiling=false"),
            *(f"--service-account-issuer={url}", f"--service-account-key-file={accounts_key}"),
            *(f"--service-account-signing-key-file={accounts_key}", f"--cert-dir={folder}/made"),
        ],
        "kube-controller-manager": [
            *(f"--kubeconfig={kubeconfig}", f"--bind-address={HOST}", f"--secure-port={controllers}"),
            *(f"--service-account-private-key-file={accounts_key}", f"--root-ca-file={ca_file}"),
            *("--leader-elect=false", "--profiling=false", f"--cert-dir={folder}/made"),
        ],
    }
    with contextlib.ExitStack() as stack:
        for name, arguments in commands.items():
            stack.callback(_end, _start(folder, name, arguments))
        until(lambda: _ready(url, ca_file, token), lambda: _told(folder), START_SECONDS)
        yield kubeconfig


async def until_usable(core: client.CoreV1Api, namespace: str) -> None:
    """Waits for the account that a controller gives a new namespace: before that no pod is let in."""

    async def accounts() -> list[str]:
        found = await core.list_namespaced_service_account(namespace)
        return [each.metadata.name for each in found.items]

    await seen(accounts, lambda names: "default" in names)


def _start(folder: Path, name: str, arguments: list[str]) -> subprocess.Popen[bytes]:
    with (folder / f"{name}.log").open("wb") as log:
        return subprocess.Popen(
            [assets() / name, *arguments],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            preexec_fn=dying_with(os.getpid()),
        )


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait(20)


def _ready(url: str, ca_file: Path, token: str) -> bool:
    """Whether the API server is, and its controllers gave the first namespace its account."""
    context = ssl.create_default_context(cafile=str(ca_file))
    asked = ("readyz", "api/v1/namespaces/default/serviceaccounts/default")
    try:
        with httpx.Client(verify=context, headers={"Authorization": f"Bearer {token}"}) as http:
            return all(http.get(f"{url}/{each}").status_code == 200 for each in asked)
    except httpx.TransportError:
        return False


def _told(folder: Path) -> str:
    return "\n".join(f"{name}: {(folder / f'{name}.log').read_text()[-1500:]}" for name in PROGRAMS)


def _accounts_key(file: Path) -> Path:
    """The key that service accounts' tokens are signed with, 0600."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    file.touch(mode=0o600)
    file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return file


def _kubeconfig(url: str, ca_file: Path, token: str) -> dict[str, object]:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "admin",
        "clusters": [{"name": "local", "cluster": {"server": url, "certificate-authority": str(ca_file)}}],
        "contexts": [{"name": "admin", "context": {"cluster": "local", "user": "admin"}}],
        "users": [{"name": "admin", "user": {"token": token}}],
    }
