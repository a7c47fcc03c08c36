"""Whatever goes wrong on a cluster ends in a clear event and a clean cluster."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from emulators.cluster.configuration import Image as ClusterImage
from emulators.cluster.configuration import Rule, User
from emulators.cluster.kinds import KINDS
from schemas.lifecycle import Ended, Listening, Submitted
from schemas.session import JobStatusChanged, Unknown
from services._runtime.clouds import Flavour, Image
from services.cloud_launcher.ports import PodName
from tests.services.cloud_launcher.stage import (
    QUICK,
    Stage,
    Story,
    cloud_at,
    cluster_with_images,
    left,
    until_clean,
)

FAULTY = "registry.invalid/faulty:1"


def server(**container: Any) -> dict[str, Any]:
    """A pod whose server runs something else."""
    return {"patch": {"spec": {"containers": [{"name": "server", **container}]}}}


def shell(words: str) -> dict[str, Any]:
    return server(command=["/bin/sh", "-c", words], args=None, readinessProbe=None)


@pytest.mark.parametrize(
    ("changes", "image", "outcome", "words"),
    [
        ({"image": "registry.invalid/nowhere:1"}, None, "failed", "The image cannot be had: "),
        ({"pod": shell("echo no kernel >&2; exit 3")}, None, "failed", "The server failed with exit code 3"),
        ({"pod": shell("exit 75")}, None, "failed", "JupyterLab did not start"),
        ({"pod": shell("exit 0")}, None, "finished", "The server ended by itself"),
        (
            {"image": FAULTY},
            ClusterImage(fault="oom-killed", fault_seconds=0.2),
            "failed",
            "more memory than its flavour",
        ),
        ({"image": FAULTY}, ClusterImage(fault="evicted", fault_seconds=0.2), "failed", "The node ran out of room"),
        (
            {"image": FAULTY},
            ClusterImage(fault="node-lost", fault_seconds=0.2),
            "lost",
            "The node of the server is lost",
        ),
    ],
    ids=["no-image", "fails", "not-in-time", "ends", "out-of-memory", "evicted", "node-lost"],
)
async def test_a_pod_that_fails_says_why_and_goes(
    tmp_path: Path, changes: dict[str, Any], image: ClusterImage | None, outcome: str, words: str
) -> None:
    async with cluster_with_images(tmp_path, images={FAULTY: image} if image else {}) as cluster:
        stage = Stage(cloud_at(cluster.kubeconfig, **changes), tmp_path)
        await stage.app.start()
        story = Story()
        await stage.admit(story)
        ended = await stage.until(story, Ended)
        assert words in ended.end.reason
        assert ended.end.outcome == outcome
        assert ended.end.remedy or outcome == "finished"
        if "no kernel" in str(changes):
            assert ended.end.log_tail.stdout == "no kernel\n"
        await until_clean(cluster)
        await stage.app.close()


async def test_a_crash_loop_ends_with_the_log(tmp_path: Path) -> None:
    pod = shell("echo I am broken; exit 4")
    pod["patch"]["spec"]["restartPolicy"] = "Always"
    async with cluster_with_images(tmp_path, crash_backoff_seconds=1.0) as cluster:
        stage = Stage(cloud_at(cluster.kubeconfig, pod=pod), tmp_path)
        await stage.app.start()
        story = Story()
        await stage.admit(story)
        ended = await stage.until(story, Ended)
        assert ended.end.reason.startswith("The server crashes again and again: 1 times, exit code 4")
        assert "I am broken" in ended.end.log_tail.stdout
        await until_clean(cluster)
        await stage.app.close()


async def test_what_fits_nowhere_waits_with_the_reason_and_expires_at_its_deadline(tmp_path: Path) -> None:
    flavours = {"small": Flavour(cpu=1000)}
    async with cluster_with_images(tmp_path) as cluster:
        stage = Stage(cloud_at(cluster.kubeconfig, flavours=flavours), tmp_path)
        await stage.app.start()
        waiting, late = Story(), Story()
        await stage.admit(waiting)
        said = await stage.said(waiting, "No node of the cloud has room")
        assert "not enough cpu is free" in said
        await stage.append(waiting.stop())
        assert (await stage.until(waiting, Ended)).end.outcome == "stopped"
        soon = msgspec.structs.replace(late.requested(), deadline=datetime.now(UTC) + timedelta(seconds=1))
        await stage.admit(late, soon)
        ended = await stage.until(late, Ended)
        assert ended.end.outcome == "expired"
        assert "not enough cpu is free" in ended.end.reason
        await until_clean(cluster)
        await stage.app.close()


async def test_a_full_quota_ends_the_start_with_what_is_used(tmp_path: Path) -> None:
    async with cluster_with_images(tmp_path) as cluster:
        quota = {"metadata": {"name": "team"}, "spec": {"hard": {"pods": "0"}}}
        cluster.store.create(KINDS["resourcequotas"], "farlab", quota)
        stage = Stage(cloud_at(cluster.kubeconfig), tmp_path)
        await stage.app.start()
        story = Story()
        await stage.admit(story)
        ended = await stage.until(story, Ended)
        assert ended.end.reason.startswith("The quota of Demo Cloud is used up (pods 0 of 0)")
        assert ended.end.remedy.startswith("Stop a server you do not need")
        await until_clean(cluster)
        await stage.app.close()


async def test_a_namespace_that_is_missing_is_said_at_once(tmp_path: Path) -> None:
    async with cluster_with_images(tmp_path) as cluster:
        cloud = cloud_at(cluster.kubeconfig)
        site = msgspec.structs.replace(cloud.site, namespace="elsewhere")
        stage = Stage(msgspec.structs.replace(cloud, site=site), tmp_path)
        await stage.app.start()
        story = Story()
        await stage.admit(story)
        assert (await stage.until(story, Ended)).end.reason == "Demo Cloud has no namespace 'elsewhere'."
        assert left(cluster) == []
        await stage.app.close()


async def test_a_user_namespace_is_watched_with_all_others(tmp_path: Path) -> None:
    async with cluster_with_images(tmp_path) as cluster:
        cluster.store.create(KINDS["namespaces"], "", {"metadata": {"name": "lab-ada"}, "status": {"phase": "Active"}})
        cloud = cloud_at(cluster.kubeconfig)
        site = msgspec.structs.replace(cloud.site, namespace="lab-{user}")
        stage = Stage(msgspec.structs.replace(cloud, site=site), tmp_path)
        await stage.app.start()
        story = Story()
        await stage.admit(story)
        await stage.until(story, Listening)
        assert cluster.store.every("pods")[0]["metadata"]["namespace"] == "lab-ada"
        await stage.append(story.stop())
        await stage.until(story, Ended)
        await until_clean(cluster)
        await stage.app.close()


async def test_a_pod_deleted_behind_our_back_ends_its_session_as_lost(tmp_path: Path) -> None:
    async with cluster_with_images(tmp_path) as cluster:
        stage = Stage(cloud_at(cluster.kubeconfig), tmp_path)
        await stage.app.start()
        story = Story()
        await stage.admit(story)
        listening = await stage.until(story, Listening)
        pod = PodName.of(listening.job)
        cluster.store.delete(KINDS["pods"], pod.namespace, pod.name, grace_seconds=0)
        ended = await stage.until(story, Ended)
        assert (ended.end.outcome, ended.end.reason) == (
            "lost",
            "The server's pod was deleted at Demo Cloud, not by Farlab.",
        )
        await until_clean(cluster)
        await stage.app.close()


async def test_starts_wait_for_an_api_server_that_restarts_and_users_stay_in(tmp_path: Path) -> None:
    async with cluster_with_images(tmp_path) as cluster:
        stage = Stage(cloud_at(cluster.kubeconfig), tmp_path)
        await stage.app.start()
        there, meanwhile = Story(), Story()
        await stage.admit(there)
        await stage.until(there, Listening)
        await cluster.shut()
        await stage.admit(meanwhile)
        assert "Waiting for the cloud: Demo Cloud" in await stage.said(meanwhile, "Waiting for the cloud")
        await cluster.serve()
        await stage.until(meanwhile, Listening)
        assert isinstance(await stage.state(there), Listening)
        await stage.append(there.stop(), meanwhile.stop())
        for story in (there, meanwhile):
            await stage.until(story, Ended)
        await until_clean(cluster)
        await stage.app.close()


async def test_a_watch_that_goes_silent_or_loses_its_history_begins_anew(tmp_path: Path) -> None:
    async with cluster_with_images(tmp_path, bookmark_seconds=60) as cluster:
        cloud = cloud_at(cluster.kubeconfig)
        quick = msgspec.structs.replace(cloud.site, silent_seconds=0.5)
        stage = Stage(msgspec.structs.replace(cloud, site=quick), tmp_path)
        await stage.app.start()
        story = Story()
        cluster.watches.speaking.clear()
        await stage.admit(story)
        await stage.until(story, Submitted)
        cluster.store.compact()
        cluster.watches.speaking.set()
        await stage.until(story, Listening)
        await stage.append(story.stop())
        await stage.until(story, Ended)
        await until_clean(cluster)
        await stage.app.close()


async def test_a_node_that_is_silent_for_a_moment_takes_nobody_away(tmp_path: Path) -> None:
    async with cluster_with_images(tmp_path, node_lost_seconds=60.0) as cluster:
        stage = Stage(cloud_at(cluster.kubeconfig), tmp_path)
        await stage.app.start()
        story = Story()
        await stage.admit(story)
        listening = await stage.until(story, Listening)
        pod = PodName.of(listening.job)
        await cluster.nodes.lose(cluster.store.get("pods", pod.namespace, pod.name)["spec"]["nodeName"])
        await stage.said(story, "does not answer the cluster")
        statuses = [each.job_status for each in await stage.events(story) if isinstance(each, JobStatusChanged)]
        assert isinstance(statuses[-1], Unknown)
        await stage.append(story.stop())
        assert (await stage.until(story, Ended)).end.outcome == "stopped"
        await until_clean(cluster)
        await stage.app.close()


async def test_an_image_is_chosen_by_name_and_one_that_is_not_offered_is_refused(tmp_path: Path) -> None:
    async with cluster_with_images(tmp_path) as cluster:
        images = {"standard": Image(image="registry.invalid/nowhere:1"), "quick": Image(image=QUICK)}
        stage = Stage(cloud_at(cluster.kubeconfig, images=images), tmp_path)
        await stage.app.start()
        chosen, other = Story(), Story()
        for story, name in ((chosen, "quick"), (other, "my-own")):
            request = story.requested()
            place = msgspec.structs.replace(request.place, image=name)
            await stage.admit(story, msgspec.structs.replace(request, place=place))
        await stage.until(chosen, Listening)
        assert "has no image 'my-own'" in (await stage.until(other, Ended)).end.reason
        await stage.append(chosen.stop())
        await stage.until(chosen, Ended)
        await until_clean(cluster)
        await stage.app.close()


RIGHTS = [
    Rule(namespaces=["farlab"], resources=["pods"], verbs=["get", "list", "watch", "create", "patch", "delete"]),
    Rule(namespaces=["farlab"], resources=["pods/log"], verbs=["get"]),
    Rule(namespaces=["farlab"], resources=["services", "secrets"], verbs=["get", "create", "delete"]),
    Rule(namespaces=["farlab"], resources=["networkpolicies"], verbs=["get", "create", "delete"]),
    Rule(namespaces=["farlab"], resources=["persistentvolumeclaims"], verbs=["get", "create"]),
    Rule(namespaces=["farlab"], resources=["events"], verbs=["list", "watch"]),
    Rule(namespaces=["farlab"], resources=["resourcequotas"], verbs=["list"]),
]
"""Those of docs/operators/kubernetes.md."""


async def test_the_rights_of_the_guide_are_enough_and_fewer_are_said(tmp_path: Path) -> None:
    users = [
        User(name="farlab", token="canary-farlab", rules=RIGHTS),
        User(name="poor", token="canary-poor", rules=[each for each in RIGHTS if "secrets" not in each.resources]),
    ]
    async with cluster_with_images(tmp_path, users=users) as cluster:
        stage = Stage(cloud_at(cluster.kubeconfig), tmp_path)
        await stage.app.start()
        story = Story()
        await stage.admit(story, story.requested(partition="home"))
        await stage.until(story, Listening)
        await stage.append(story.stop())
        await stage.until(story, Ended)
        await until_clean(cluster)
        assert [each["kind"] for each in cluster.store.every("persistentvolumeclaims")] == ["PersistentVolumeClaim"]
        await stage.app.close()
        poor = Stage(cloud_at(cluster.folder / "poor.kubeconfig"), tmp_path)
        await poor.app.start()
        refused = Story()
        await poor.admit(refused)
        ended = await poor.until(refused, Ended)
        assert 'User "poor" cannot create resource "services"' in ended.end.reason
        assert "canary" not in await poor.words(refused)
        await until_clean(cluster)
        await poor.app.close()
