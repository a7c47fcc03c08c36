"""Many pods through one watch: bounded calls, bounded memory, and nobody else waits for it."""

from __future__ import annotations

import asyncio
import tracemalloc
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

from emulators.cluster.kinds import KINDS, Object
from schemas.lifecycle import Ended, Listening
from services._runtime.api_server import api_of
from services.cloud_launcher.kubernetes import KubernetesCluster
from services.cloud_launcher.pods import Pods
from services.cloud_launcher.ports import Changed, Listed, PodChange
from tests.services.cloud_launcher.stage import Stage, Story, cloud_at, cluster_with_images, until_clean

PODS = 500
SESSIONS = 12
BYTES_PER_POD = 3000
CALLS_PER_START = Counter(
    {"create pods": 1, "create networkpolicies": 1, "create services": 1, "create secrets": 1, "patch pods": 1}
)


def listening(number: int) -> Object:
    """A pod of ours that serves, with as much in it as real ones have that nobody looks at."""
    session = f"{number:026d}"
    labels = {"farlab-installation": "farlab", "farlab-session": session}
    container = {
        "name": "server",
        "image": "registry.invalid/x:1",
        "env": [{"name": f"V{n}", "value": "x" * 50} for n in range(60)],
    }
    return {
        "metadata": {"name": f"farlab-{session}", "labels": labels},
        "spec": {"containers": [container], "schedulingGates": [{"name": "farlab/closed"}]},
    }


async def test_five_hundred_pods_come_through_one_watch_within_their_memory(tmp_path: Path) -> None:
    async with cluster_with_images(tmp_path) as cluster:
        cloud = cloud_at(cluster.kubeconfig)
        for number in range(PODS // 2):
            cluster.store.create(KINDS["pods"], "farlab", listening(number))
        adapter = KubernetesCluster(
            api_of(cloud.title, cloud.site), installation="farlab", namespace="farlab", silent_seconds=5
        )
        changed: list[str] = []
        pods = Pods(adapter, changed.append, asyncio.get_running_loop().time)
        before = Counter(cluster.requests)
        tracemalloc.start()
        running = asyncio.create_task(pods.run())
        try:
            await until(lambda: pods.synced)
            for number in range(PODS // 2, PODS):
                cluster.store.create(KINDS["pods"], "farlab", listening(number))
            await until(lambda: len(pods.all()) == PODS)
            held = sum(
                each.size
                for each in tracemalloc.take_snapshot().statistics("filename")
                if "cloud_launcher" in each.traceback[0].filename
            )
        finally:
            tracemalloc.stop()
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            await adapter.close()
        assert Counter(cluster.requests) - before == {"list pods": 1, "watch pods": 1}
        assert held / PODS < BYTES_PER_POD
        assert len(set(changed)) == PODS


async def until(holds: object) -> None:
    async with asyncio.timeout(30):
        while not holds():  # type: ignore[operator]
            await asyncio.sleep(0.01)


async def test_a_start_costs_five_calls_and_a_stop_one(tmp_path: Path) -> None:
    async with cluster_with_images(tmp_path) as cluster:
        stage = Stage(cloud_at(cluster.kubeconfig), tmp_path)
        await stage.app.start()
        await until(lambda: stage.app.followers[stage.cloud.name].pods.synced)
        before = Counter(cluster.requests)
        stories = [Story() for _ in range(SESSIONS)]
        for story in stories:
            await stage.admit(story)
        for story in stories:
            await stage.until(story, Listening)
        started = Counter(cluster.requests) - before
        assert {name: count for name, count in started.items() if not name.startswith("watch ")} == {
            name: count * SESSIONS for name, count in CALLS_PER_START.items()
        }
        await stage.append(*[story.stop() for story in stories])
        for story in stories:
            await stage.until(story, Ended)
        await until_clean(cluster)
        await stage.log.settled()
        stopped = Counter(cluster.requests) - before - started
        assert stopped["delete pods"] <= 2 * SESSIONS, "one to end it, one to clear away"
        assert set(stopped) <= {"delete pods", "watch pods", "watch events"}
        await stage.app.close()


async def test_a_list_of_many_lets_others_have_their_turn() -> None:
    class Many:
        async def pods(self) -> AsyncIterator[PodChange]:
            from services.cloud_launcher.ports import PodName, Queued, Seen

            for number in range(5000):
                if number % 50 == 0:
                    await asyncio.sleep(0)
                yield Changed(Seen(PodName("farlab", f"farlab-{number}", str(number)), None, Queued()))
            yield Listed(frozenset())
            await asyncio.Event().wait()

    pods = Pods(Many(), lambda _session: None, asyncio.get_running_loop().time)  # type: ignore[arg-type]
    running = asyncio.create_task(pods.run())
    turns = 0
    while not pods.synced:
        await asyncio.sleep(0)
        turns += 1
    assert turns >= 100
    assert pods.all() == []
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
