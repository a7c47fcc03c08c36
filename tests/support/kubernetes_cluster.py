"""An emulated cluster in process, and the official client for it. A pod's image `shell` runs what its args say."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

from kubernetes.aio import client, config

from emulators.cluster.cluster import Cluster
from emulators.cluster.configuration import ClusterConfiguration, Image

T = TypeVar("T")
SHELL = "registry.invalid/shell:1"
PATIENCE_SECONDS = 20.0


@asynccontextmanager
async def emulated_cluster(folder: Path, **changes: Any) -> AsyncIterator[Cluster]:
    """A cluster with two nodes, the namespace `default` and the image SHELL; `cluster.kubeconfig` names its file."""
    settings: dict[str, Any] = {
        "folder": str(folder / "cluster"),
        "images": {SHELL: Image(entrypoint=["/bin/sh", "-c"])} | changes.pop("images", {}),
        "bookmark_seconds": 0.2,
        "crash_backoff_seconds": 0.05,
        "node_lost_seconds": 0.05,
    }
    async with Cluster(ClusterConfiguration(**settings | changes)) as cluster:
        yield cluster


@asynccontextmanager
async def api_of(kubeconfig: Path) -> AsyncIterator[client.ApiClient]:
    """The official client as a kubeconfig describes it."""
    settings = client.Configuration()
    await config.load_kube_config(config_file=str(kubeconfig), client_configuration=settings)
    async with client.ApiClient(settings) as api:
        yield api


def pod(name: str, words: str = "sleep 60", *, image: str = SHELL, **spec: Any) -> dict[str, Any]:
    """A pod's manifest: one container `main` that runs words in a shell."""
    container = {"name": "main", "image": image, "args": [words], **spec.pop("container", {})}
    metadata = {"name": name, "labels": {"app": "test"}, **spec.pop("metadata", {})}
    return {"metadata": metadata, "spec": {"containers": [container], "restartPolicy": "Never", **spec}}


async def until(look: Callable[[], Awaitable[T]], holds: Callable[[T], object]) -> T:
    """What is seen once it is as wanted. Raises TimeoutError."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not holds(seen := await look()):
            await asyncio.sleep(0.02)
    return seen
