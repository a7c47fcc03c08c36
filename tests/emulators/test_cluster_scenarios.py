"""What launchers rely on of an API server: the same scenarios on the emulated cluster and on a real one.

They need no node, so a bare control plane will do. Each runs in a namespace of its own.
"""

from __future__ import annotations

import asyncio
import copy
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from kubernetes.aio import client, watch
from kubernetes.aio.client.exceptions import ApiException

from tests.support.control_plane import REAL, real_kubeconfig, until_usable
from tests.support.kubernetes_cluster import api_of, emulated_cluster, pod, until

__all__ = ["real_kubeconfig"]
OWNER = {"apiVersion": "v1", "kind": "ConfigMap"}


class Place:
    """A namespace of one cluster and the client's faces for it; a watch that long has had a bookmark.

    Kubernetes sends one a minute, and one before the end of a watch, but none to a watch of a few seconds.
    """

    def __init__(self, api: client.ApiClient, namespace: str, bookmark_seconds: int) -> None:
        self.api = api
        self.bookmark_seconds = bookmark_seconds
        self.core = client.CoreV1Api(api)
        self.network = client.NetworkingV1Api(api)
        self.namespace = namespace

    async def configmap(self, name: str, **metadata: Any) -> Any:
        body = {"metadata": {"name": name, **metadata}, "data": {"a": "1"}}
        return await self.core.create_namespaced_config_map(self.namespace, body)


@asynccontextmanager
async def place_in(kubeconfig: Path, bookmark_seconds: int) -> AsyncIterator[Place]:
    async with api_of(kubeconfig) as api:
        place = Place(api, f"farlab-{uuid.uuid4().hex[:8]}", bookmark_seconds)
        await place.core.create_namespace({"metadata": {"name": place.namespace}})
        yield place
        await place.core.delete_namespace(place.namespace)


@pytest.fixture(params=["emulated", pytest.param("real", marks=REAL)])
async def place(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Place]:
    if request.param == "emulated":
        async with emulated_cluster(tmp_path) as cluster, place_in(cluster.kubeconfig, 2) as found:
            yield found
    else:
        async with place_in(request.getfixturevalue("real_kubeconfig"), 75) as found:
            await until_usable(found.core, found.namespace)
            yield found


async def refused(call: Any) -> ApiException:
    with pytest.raises(ApiException) as caught:
        await call
    return caught.value


async def test_objects_carry_identity_and_versions(place: Place) -> None:
    first = await place.configmap("one")
    assert first.metadata.uid
    assert first.metadata.creation_timestamp
    changed = await place.core.patch_namespaced_config_map("one", place.namespace, {"data": {"b": "2"}})
    assert changed.metadata.uid == first.metadata.uid
    assert int(changed.metadata.resource_version) > int(first.metadata.resource_version)
    assert changed.data == {"a": "1", "b": "2"}


async def test_a_name_that_is_taken_is_409(place: Place) -> None:
    await place.configmap("one")
    error = await refused(place.configmap("one"))
    assert error.status == 409
    assert '"reason":"AlreadyExists"' in str(error.body).replace(" ", "")


async def test_a_write_from_an_older_version_is_409(place: Place) -> None:
    old = await place.configmap("one")
    await place.core.patch_namespaced_config_map("one", place.namespace, {"data": {"b": "2"}})
    old.data = {"c": "3"}
    error = await refused(place.core.replace_namespaced_config_map("one", place.namespace, old))
    assert error.status == 409
    assert '"reason":"Conflict"' in str(error.body).replace(" ", "")


async def test_what_is_not_there_is_404(place: Place) -> None:
    assert (await refused(place.core.read_namespaced_secret("none", place.namespace))).status == 404
    assert (await refused(place.core.delete_namespaced_pod("none", place.namespace))).status == 404
    elsewhere = place.core.create_namespaced_pod("no-such-namespace", pod("one"))
    assert (await refused(elsewhere)).status == 404


@pytest.mark.parametrize(
    ("manifest", "field"),
    [
        (pod("Upper"), "metadata.name"),
        ({"metadata": {"name": "one"}, "spec": {"containers": []}}, "spec.containers"),
        (pod("one", container={"resources": {"requests": {"cpu": "2"}, "limits": {"cpu": "1"}}}), "requests"),
        (pod("one", container={"volumeMounts": [{"name": "none", "mountPath": "/x"}]}), "volumeMounts[0].name"),
    ],
)
async def test_an_invalid_pod_is_422_and_names_the_field(place: Place, manifest: dict[str, Any], field: str) -> None:
    error = await refused(place.core.create_namespaced_pod(place.namespace, manifest))
    assert error.status == 422
    assert field in str(error.body)


async def test_a_wrong_token_is_401(place: Place) -> None:
    wrong = copy.copy(place.api.configuration)
    wrong.api_key, wrong.refresh_api_key_hook = {"BearerToken": "Bearer wrong"}, None
    wrong.cert_file = wrong.key_file = None
    async with client.ApiClient(wrong) as stranger:
        assert (await refused(client.CoreV1Api(stranger).list_namespaced_pod(place.namespace))).status == 401


async def test_lists_select_by_labels_and_fields(place: Place) -> None:
    for name, labels in (("one", {"a": "1"}), ("two", {"a": "2", "b": ""}), ("three", {})):
        await place.configmap(name, labels=labels)

    async def names(**selector: str) -> list[str]:
        found = await place.core.list_namespaced_config_map(place.namespace, **selector)
        return [each.metadata.name for each in found.items if each.metadata.name != "kube-root-ca.crt"]

    assert await names(label_selector="a=1") == ["one"]
    assert await names(label_selector="a in (1,2),!b") == ["one"]
    assert await names(label_selector="a notin (1)") == ["three", "two"]
    assert await names(label_selector="b") == ["two"]
    assert await names(label_selector="a!=2") == ["one", "three"]
    assert await names(field_selector="metadata.name=three") == ["three"]
    assert (await refused(names(field_selector="data.a=1"))).status == 400
    assert (await refused(names(label_selector="a in (1"))).status == 400


async def test_a_list_comes_in_pages_of_one_version(place: Place) -> None:
    for number in range(5):
        await place.configmap(f"page-{number}", labels={"paged": "yes"})
    names: list[str] = []
    going: str | None = ""
    versions = set()
    while going is not None:
        listed = place.core.list_namespaced_config_map
        page = await listed(place.namespace, label_selector="paged=yes", limit=2, _continue=going or None)
        names += [each.metadata.name for each in page.items]
        versions.add(page.metadata.resource_version)
        if not going:
            await place.configmap("page-9", labels={"paged": "yes"})
        going = page.metadata._continue
    assert names == [f"page-{number}" for number in range(5)]
    assert len(versions) == 1


async def test_a_watch_tells_what_happened_after_a_version(place: Place) -> None:
    before = await place.configmap("zero", labels={"a": "1"})
    await place.configmap("one", labels={"a": "1"})
    await place.core.patch_namespaced_config_map("one", place.namespace, {"data": {"b": "2"}})
    await place.core.patch_namespaced_config_map("one", place.namespace, {"metadata": {"labels": {"a": "2"}}})
    seen = []
    async with watch.Watch() as watching, asyncio.timeout(20):
        stream = watching.stream(
            place.core.list_namespaced_config_map,
            place.namespace,
            label_selector="a=1",
            resource_version=before.metadata.resource_version,
        )
        async for event in stream:
            seen.append((event["type"], event["object"].metadata.name))
            if event["type"] == "DELETED":
                break
    assert seen == [("ADDED", "one"), ("MODIFIED", "one"), ("DELETED", "one")]


async def test_a_watch_that_ends_says_how_far_it_came(place: Place) -> None:
    made = await place.configmap("one")
    passed_by = await place.configmap("two")
    async with watch.Watch() as watching, asyncio.timeout(place.bookmark_seconds + 20):
        kinds = [
            (event["type"], event["raw_object"]["metadata"]["resourceVersion"])
            async for event in watching.stream(
                place.core.list_namespaced_config_map,
                place.namespace,
                label_selector="none=here",
                resource_version=made.metadata.resource_version,
                allow_watch_bookmarks=True,
                timeout_seconds=place.bookmark_seconds,
            )
        ]
    assert {kind for kind, _ in kinds} == {"BOOKMARK"}
    assert int(kinds[-1][1]) >= int(passed_by.metadata.resource_version)


async def test_what_is_owned_goes_with_its_owner(place: Place) -> None:
    owner = await place.configmap("owner")
    reference = {**OWNER, "name": "owner", "uid": owner.metadata.uid}
    await place.core.create_namespaced_secret(
        place.namespace, {"metadata": {"name": "owned", "ownerReferences": [reference]}}
    )
    await place.core.delete_namespaced_config_map("owner", place.namespace)

    async def secrets() -> list[str]:
        found = await place.core.list_namespaced_secret(place.namespace, field_selector="metadata.name=owned")
        return [each.metadata.name for each in found.items]

    await until(secrets, lambda names: not names)


async def test_a_finalizer_holds_an_object_until_it_is_taken_off(place: Place) -> None:
    await place.configmap("held", finalizers=["farlab.test/hold"])
    await place.core.delete_namespaced_config_map("held", place.namespace)
    found = await place.core.read_namespaced_config_map("held", place.namespace)
    assert found.metadata.deletion_timestamp
    await place.core.patch_namespaced_config_map("held", place.namespace, {"metadata": {"finalizers": None}})
    assert (await refused(place.core.read_namespaced_config_map("held", place.namespace))).status == 404


async def test_a_delete_with_another_uid_is_409(place: Place) -> None:
    await place.configmap("one")
    options = client.V1DeleteOptions(preconditions=client.V1Preconditions(uid=str(uuid.uuid4())))
    error = await refused(place.core.delete_namespaced_config_map("one", place.namespace, body=options))
    assert error.status == 409


async def test_a_write_with_another_uid_is_409_and_a_patch_422(place: Place) -> None:
    made = await place.configmap("one")
    patch = {"metadata": {"uid": str(uuid.uuid4())}, "data": {"a": "2"}}
    error = await refused(place.core.patch_namespaced_config_map("one", place.namespace, patch))
    assert error.status == 422
    assert "field is immutable" in str(error.body)
    made.metadata.uid, made.metadata.resource_version = str(uuid.uuid4()), None
    error = await refused(place.core.replace_namespaced_config_map("one", place.namespace, made))
    assert error.status == 409
    assert "UID in precondition" in str(error.body)


async def test_a_quota_that_is_used_up_is_403(place: Place) -> None:
    quota = {"metadata": {"name": "few"}, "spec": {"hard": {"count/secrets": "1"}}}
    await place.core.create_namespaced_resource_quota(place.namespace, quota)

    async def counted() -> Any:
        return await place.core.read_namespaced_resource_quota("few", place.namespace)

    await until(counted, lambda found: found.status and found.status.used)
    await place.core.create_namespaced_secret(place.namespace, {"metadata": {"name": "one"}})
    error = await refused(place.core.create_namespaced_secret(place.namespace, {"metadata": {"name": "two"}}))
    assert error.status == 403
    assert "exceeded quota: few, requested: count/secrets=1, used: count/secrets=1, limited: count/secrets=1" in str(
        error.body
    )


async def test_a_secret_is_written_plainly_and_read_encoded(place: Place) -> None:
    body = {"metadata": {"name": "one"}, "stringData": {"token": "abc"}, "immutable": True}
    made = await place.core.create_namespaced_secret(place.namespace, body)
    assert made.data == {"token": "YWJj"}
    assert made.string_data is None
    change = place.core.patch_namespaced_secret("one", place.namespace, {"stringData": {"token": "x"}})
    assert (await refused(change)).status == 422


async def test_strategic_merge_joins_lists_by_their_key(place: Place) -> None:
    spec = {"ports": [{"name": "a", "port": 80}, {"name": "b", "port": 81}]}
    await place.core.create_namespaced_service(place.namespace, {"metadata": {"name": "one"}, "spec": spec})
    found = await place.core.patch_namespaced_service(
        "one", place.namespace, {"spec": {"ports": [{"name": "c", "port": 82}, {"port": 80, "$patch": "delete"}]}}
    )
    assert {port.port for port in found.spec.ports} == {81, 82}


async def test_a_collection_is_deleted_by_selector(place: Place) -> None:
    await place.configmap("one", labels={"a": "1"})
    await place.configmap("two", labels={"a": "2"})
    await place.core.delete_collection_namespaced_config_map(place.namespace, label_selector="a=1")
    found = await place.core.list_namespaced_config_map(place.namespace, label_selector="a")
    assert [each.metadata.name for each in found.items] == ["two"]


async def test_network_policies_and_claims_are_kept(place: Place) -> None:
    policy = {"metadata": {"name": "one"}, "spec": {"podSelector": {"matchLabels": {"a": "1"}}}}
    made = await place.network.create_namespaced_network_policy(place.namespace, policy)
    assert made.spec.pod_selector.match_labels == {"a": "1"}
    claim = {
        "metadata": {"name": "home"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    }
    await place.core.create_namespaced_persistent_volume_claim(place.namespace, claim)
    claim["spec"] = {"resources": {"requests": {"storage": "1Gi"}}}
    claim["metadata"] = {"name": "other"}
    wrong = place.core.create_namespaced_persistent_volume_claim(place.namespace, claim)
    assert (await refused(wrong)).status == 422
