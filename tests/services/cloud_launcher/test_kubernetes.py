"""What the launcher does to a cluster: the same scenarios on the emulated one and on a real one.

They need no node and no controller, so a bare control plane will do: pods stay where no scheduler takes them.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from kubernetes.aio import client

from schemas.secrets import JobSecrets
from services._runtime.api_server import ApiServer, NotThereError
from services._runtime.clouds import CloudSystem, Flavour, KubernetesSite
from services._runtime.errors import PermanentError, TransientError
from services.cloud_launcher import manifests
from services.cloud_launcher.kubernetes import KubernetesCluster
from services.cloud_launcher.ports import Changed, Gone, Inert, Listed, PodName
from tests.services.cloud_launcher.stage import QUICK, Story, cloud_at
from tests.support.control_plane import REAL, real_kubeconfig, until_usable
from tests.support.kubernetes_cluster import api_of, emulated_cluster

__all__ = ["real_kubeconfig"]
SECRETS = JobSecrets(environment={"JUPYTERHUB_API_TOKEN": "t"}, proof_key="ab" * 32)
CLAIM = "/api/v1/namespaces/{}/persistentvolumeclaims/{}"


class Place:
    """A namespace of one cluster, the launcher's adapter for it, and the API beside it."""

    def __init__(self, api: ApiServer, cloud: CloudSystem) -> None:
        self.api, self.cloud = api, cloud
        self.namespace = cloud.site.namespace
        self.cluster = KubernetesCluster(api, installation="farlab", namespace=self.namespace, silent_seconds=20)

    async def gated(self, story: Story, flavour: str = "small") -> PodName:
        request = story.requested(partition=flavour)
        return await self.cluster.make(manifests.pod(self.cloud, "farlab", request))


@pytest.fixture(params=["emulated", pytest.param("real", marks=REAL)])
async def place(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Place]:
    if request.param == "emulated":
        async with emulated_cluster(tmp_path) as cluster:
            async for found in place_in(cluster.kubeconfig):
                yield found
    else:
        kubeconfig = request.getfixturevalue("real_kubeconfig")
        async with api_of(kubeconfig) as api:
            async for found in place_in(kubeconfig):
                await until_usable(client.CoreV1Api(api), found.namespace)
                yield found


async def place_in(kubeconfig: Path) -> AsyncIterator[Place]:
    cloud = cloud_at(kubeconfig, image=QUICK, flavours={"small": Flavour(), "home": Flavour(storage_bytes=2**20)})
    site = KubernetesSite(kubeconfig=str(kubeconfig), namespace=f"farlab-{uuid.uuid4().hex[:8]}")
    api = ApiServer("Cluster", kubeconfig=str(kubeconfig), concurrent_requests=4, timeout_seconds=10)
    found = Place(api, msgspec.structs.replace(cloud, site=site))
    namespace = {"metadata": {"name": found.namespace}}
    await api.call("making the namespace", "POST", "/api/v1/namespaces", document=namespace)
    try:
        yield found
    finally:
        await api.call("removing the namespace", "DELETE", f"/api/v1/namespaces/{found.namespace}")
        await api.close()


async def test_a_pod_is_inert_until_released_and_made_again_is_the_same(place: Place) -> None:
    story = Story()
    pod = await place.gated(story)
    assert await place.gated(story) == pod
    seen = await place.cluster.look(pod)
    assert seen is not None
    assert (seen.session, seen.report) == (story.session, Inert())
    await place.cluster.release(pod)
    await place.cluster.release(pod)
    released = await place.cluster.look(pod)
    assert released is not None
    assert not isinstance(released.report, Inert)
    await place.cluster.release(PodName(pod.namespace, pod.name, "another-uid"))


async def test_what_belongs_to_a_pod_names_it_as_its_owner_and_is_made_once(place: Place) -> None:
    story = Story()
    request, pod = story.requested(), await place.gated(story)
    for _ in range(2):
        for belonging in manifests.belongings(place.cloud, "farlab", request, pod, SECRETS):
            await place.cluster.make(belonging)
    secret = await place.api.call("reading", "GET", f"/api/v1/namespaces/{place.namespace}/secrets/{pod.name}")
    found: dict[str, Any] = msgspec.json.decode(secret)
    assert found["metadata"]["ownerReferences"][0]["uid"] == pod.uid
    assert set(found["data"]) == {"farlab-secrets.json", "farlab_job.py", "farlab_proof.py"}


async def test_what_an_earlier_pod_left_makes_room(place: Place) -> None:
    story = Story()
    request, pod = story.requested(), await place.gated(story)
    earlier = PodName(pod.namespace, pod.name, str(uuid.uuid4()))
    policy = manifests.belongings(place.cloud, "farlab", request, earlier, SECRETS)[0]
    await place.cluster.make(policy)
    wanted = manifests.belongings(place.cloud, "farlab", request, pod, SECRETS)[0]
    async with asyncio.timeout(20):
        while True:
            try:
                await place.cluster.make(wanted)
                break
            except TransientError:
                continue


class Hurried(ApiServer):
    """Somebody else removes a NetworkPolicy just before this does."""

    async def call(self, operation: str, method: str, path: str, **more: Any) -> bytes:
        if method == "DELETE" and "networkpolicies" in path:
            await super().call(operation, method, path)
        return await super().call(operation, method, path, **more)


async def test_what_somebody_else_removes_first_makes_room_too(tmp_path: Path) -> None:
    async with emulated_cluster(tmp_path) as cluster:
        async for place in place_in(cluster.kubeconfig):
            story = Story()
            request, pod, other = story.requested(), await place.gated(story), await place.gated(Story())
            earlier = PodName(
                pod.namespace, pod.name, other.uid
            )  # an owner that is there: it is not collected meanwhile
            await place.cluster.make(manifests.belongings(place.cloud, "farlab", request, earlier, SECRETS)[0])
            api = Hurried("Cluster", kubeconfig=str(cluster.kubeconfig), concurrent_requests=4, timeout_seconds=10)
            hurried = KubernetesCluster(api, installation="farlab", namespace=place.namespace, silent_seconds=20)
            wanted = manifests.belongings(place.cloud, "farlab", request, pod, SECRETS)[0]
            with pytest.raises(TransientError, match="left a NetworkPolicy"):
                await hurried.make(wanted)
            assert (await hurried.make(wanted)).uid
            await api.close()


async def test_a_users_volume_is_made_once_and_kept(place: Place) -> None:
    story = Story()
    claim = manifests.claim(place.cloud, "farlab", story.requested(partition="home"))
    assert claim is not None
    for _ in range(2):
        await place.cluster.make(claim)
    path = CLAIM.format(place.namespace, claim["metadata"]["name"])
    kept = msgspec.json.decode(await place.api.call("reading", "GET", path))
    assert "ownerReferences" not in kept["metadata"]
    with pytest.raises(NotThereError):
        await place.api.call("reading", "GET", CLAIM.format(place.namespace, "other"))


async def test_the_watch_tells_what_there_is_then_what_changes(place: Place) -> None:
    there, later = Story(), Story()
    first = await place.gated(there)
    stream = cast("Any", place.cluster.pods())
    async with asyncio.timeout(30), aclosing(stream):
        told = [await anext(stream), await anext(stream)]
        assert isinstance(told[0], Changed)
        assert told[0].seen.pod == first
        assert told[1] == Listed(frozenset({first.uid}))
        second = await place.gated(later)
        while not (isinstance(change := await anext(stream), Changed) and change.seen.pod == second):
            pass
        assert await place.cluster.remove(first, 0)
        while not (isinstance(change := await anext(stream), Gone) and change.last.pod == first):
            pass
    assert await place.cluster.look(first) is None
    assert not await place.cluster.remove(first)
    assert not await place.cluster.remove(PodName(second.namespace, second.name, str(uuid.uuid4())))


async def test_what_the_cluster_will_not_have_is_said(place: Place) -> None:
    manifest = manifests.pod(place.cloud, "farlab", Story().requested())
    manifest["spec"]["restartPolicy"] = "Perhaps"
    with pytest.raises(PermanentError, match="restartPolicy") as refused:
        await place.cluster.make(manifest)
    assert refused.value.code == "rejected-by-cloud"


async def test_a_kubeconfig_that_is_no_good_is_tried_again(tmp_path: Path) -> None:
    file = tmp_path / "kubeconfig"
    file.write_text("[]")
    api = ApiServer("Cluster", kubeconfig=str(file), concurrent_requests=1, timeout_seconds=1)
    with pytest.raises(TransientError, match="cannot be used"):
        await api.call("asking", "GET", "/version")
