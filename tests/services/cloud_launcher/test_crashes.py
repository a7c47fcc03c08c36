"""A launcher that is killed between any two steps never doubles a pod and leaves none behind."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from emulators.cluster.kinds import KINDS
from schemas.lifecycle import Ended, Listening
from services._runtime.errors import TransientError
from services.cloud_launcher.app import cluster_of
from services.cloud_launcher.ports import Manifest, PodName
from tests.services.cloud_launcher.stage import (
    QUICK,
    Stage,
    Story,
    cloud_at,
    cluster_with_images,
    left,
    until_clean,
)

STEPS = ["Pod", "NetworkPolicy", "Service", "Secret", "release"]


class Killed:
    """A cluster whose launcher is killed right after a call was carried out: its answer never comes."""

    def __init__(self, cluster: Any, step: str) -> None:
        self._cluster = cluster
        self._step = step
        self.killed = asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cluster, name)

    async def make(self, manifest: Manifest) -> PodName:
        made: PodName = await self._cluster.make(manifest)
        await self._die(manifest["kind"])
        return made

    async def release(self, pod: PodName) -> None:
        await self._cluster.release(pod)
        await self._die("release")

    async def _die(self, step: str) -> None:
        if step == self._step:
            self.killed.set()
            raise TransientError("killed before it heard the answer")


@pytest.mark.parametrize("stopped", [False, True], ids=["goes-on", "stopped-meanwhile"])
@pytest.mark.parametrize("step", STEPS)
async def test_the_next_life_goes_on_with_the_pod_there_is(tmp_path: Path, step: str, stopped: bool) -> None:
    async with cluster_with_images(tmp_path) as cluster:
        cloud = cloud_at(cluster.kubeconfig)
        dying = Killed(cluster_of(cloud, "farlab"), step)
        stage = Stage(cloud, tmp_path, dying)  # type: ignore[arg-type]
        await stage.app.start()
        story = Story()
        await stage.admit(story)
        await asyncio.wait_for(dying.killed.wait(), 20)
        await stage.app.close()
        stage.clusters.clear()
        stage.app = stage.launcher()
        await stage.app.start()
        stage.log.redeliver("cloud-launcher")
        if stopped:
            await stage.append(story.stop())
        else:
            listening = await stage.until(story, Listening)
            assert [pod["metadata"]["uid"] for pod in cluster.store.every("pods")] == [PodName.of(listening.job).uid]
            await stage.append(story.stop())
        await stage.until(story, Ended)
        await until_clean(cluster)
        assert cluster.requests["create pods"] <= 2
        await stage.app.close()


async def test_strays_are_removed_and_said_and_those_of_others_stay(tmp_path: Path, capsys: Any) -> None:
    async with cluster_with_images(tmp_path) as cluster:
        stage = Stage(cloud_at(cluster.kubeconfig), tmp_path)
        foreign, stray = Story(), Story()
        for story, installation in ((foreign, "other"), (stray, "farlab")):
            labels = {"farlab-installation": installation, "farlab-session": story.session}
            container = {"name": "server", "image": QUICK, "command": ["sleep", "60"]}
            manifest = {
                "metadata": {"name": f"farlab-{story.session}", "labels": labels},
                "spec": {"containers": [container]},
            }
            cluster.store.create(KINDS["pods"], "farlab", manifest)
        await stage.app.start()
        follower = stage.app.followers[stage.cloud.name]
        await _until(lambda: follower.pods.synced)
        await stage.app.reconcilers[stage.cloud.name].reconcile()
        await _until(lambda: left(cluster) == [f"pods/farlab-{foreign.session}"])
        assert "orphan removed" in capsys.readouterr().out
        await stage.app.close()


async def test_a_name_that_somebody_else_took_ends_the_start_and_touches_nothing(tmp_path: Path) -> None:
    async with cluster_with_images(tmp_path) as cluster:
        stage = Stage(cloud_at(cluster.kubeconfig), tmp_path)
        story = Story()
        theirs = {
            "metadata": {"name": f"farlab-{story.session}"},
            "spec": {"containers": [{"name": "a", "image": QUICK}]},
        }
        cluster.store.create(KINDS["pods"], "farlab", theirs)
        await stage.app.start()
        await stage.admit(story)
        ended = await stage.until(story, Ended)
        assert "is not this session's" in ended.end.reason
        await stage.log.settled()
        assert f"pods/farlab-{story.session}" in left(cluster)
        await stage.app.close()


async def test_of_two_replicas_one_records_and_the_other_takes_over(tmp_path: Path) -> None:
    async with cluster_with_images(tmp_path) as cluster:
        stage = Stage(cloud_at(cluster.kubeconfig), tmp_path)
        other = stage.launcher("two")
        await stage.app.start()
        await other.start()
        first, second = Story(), Story()
        await stage.admit(first)
        await stage.until(first, Listening)
        await stage.app.close()
        stage.leases.expire("cloud-launcher.demo-cloud.follower")
        await stage.admit(second)
        await stage.until(second, Listening)
        events = [type(each).__name__ for each in await stage.events(first)]
        assert events.count("ServerListening") == 1
        await stage.append(first.stop(), second.stop())
        for story in (first, second):
            await stage.until(story, Ended)
        await until_clean(cluster)
        await other.close()


async def _until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not holds():
            await asyncio.sleep(0.02)
