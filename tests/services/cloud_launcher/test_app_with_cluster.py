"""The cloud launcher against an emulated cluster over HTTPS, pods as real processes, JupyterLab as the server."""

from __future__ import annotations

import hmac
from pathlib import Path

import httpx

from schemas.lifecycle import Ended, Listening
from tests.services.cloud_launcher.stage import JUPYTER, Stage, Story, cloud_at, cluster_with_images, until_clean
from tests.services.hpc_launcher.stage import CANARY, hub_api


async def test_a_start_reaches_a_real_jupyterlab_that_proves_itself_and_a_stop_leaves_nothing(tmp_path: Path) -> None:
    async with cluster_with_images(tmp_path) as cluster, hub_api() as hub:
        stage = Stage(cloud_at(cluster.kubeconfig, image=JUPYTER, pod={"patch": {}}), tmp_path)
        await stage.app.start()
        story = Story()
        await stage.admit(story, JUPYTERHUB_API_URL=hub)
        listening = await stage.until(story, Listening)
        [pod] = cluster.store.every("pods")
        assert CANARY not in str(pod)
        async with httpx.AsyncClient(trust_env=False) as client:
            server = f"http://{listening.server.host}:{listening.server.port}/user/ada"
            answer = await client.get(f"{server}/farlab/proof", params={"challenge": "00" * 16})
            assert (await client.get(f"{server}/api/kernels")).status_code == 403
        assert answer.json()["proof"] == hmac.new(bytes.fromhex("ab" * 32), bytes(16), "sha256").hexdigest()
        await stage.append(story.stop())
        ended = await stage.until(story, Ended)
        await stage.log.settled()
        assert ended.end.outcome == "stopped"
        assert ended.end.use.core_seconds > 0
        await until_clean(cluster)
        assert await stage.bucket.keys() == []
        assert CANARY.encode() not in b"".join(stored.body for stored in stage.log.stored["SESSIONS"])
        await stage.app.close()
