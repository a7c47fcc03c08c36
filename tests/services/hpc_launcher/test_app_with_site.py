"""The launcher against an emulated UNICORE site over HTTPS, jobs as real processes, JupyterLab as the server."""

from __future__ import annotations

import hmac
from pathlib import Path

import httpx

from schemas.lifecycle import Ended, Listening
from tests.services.hpc_launcher.stage import CANARY, Stage, emulated_site, hub_api, system_at
from tests.support.samples import Story


async def test_a_start_reaches_a_real_jupyterlab_that_proves_itself_and_a_stop_leaves_nothing(tmp_path: Path) -> None:
    async with emulated_site(tmp_path) as (site, key), hub_api() as hub:
        stage = Stage(system_at(site, key, server_start_seconds=60), tmp_path)
        await stage.app.start()
        story = Story()
        await stage.admit(story, JUPYTERHUB_API_URL=hub)
        listening = await stage.until(story, Listening)
        assert isinstance(listening, Listening)
        [job] = site.store.jobs.values()
        assert job.tags == ["farlab-installation-farlab", "farlab-hub-main", f"farlab-session-{story.session}"]
        assert CANARY not in str(job.description) + str(job.log)
        secret = site.store.working_directory(job) / "farlab-secrets.json"
        assert secret.stat().st_mode & 0o777 == 0o600
        async with httpx.AsyncClient(trust_env=False) as client:
            server = f"http://{listening.server.host}:{listening.server.port}/user/ada"
            answer = await client.get(f"{server}/farlab/proof", params={"challenge": "00" * 16})
            assert (await client.get(f"{server}/api/kernels")).status_code == 403
        assert answer.json()["proof"] == hmac.new(bytes.fromhex("ab" * 32), bytes(16), "sha256").hexdigest()
        await stage.append(story.stop())
        ended = await stage.until(story, Ended)
        await stage.log.settled()
        assert isinstance(ended, Ended)
        assert ended.end.outcome == "stopped"
        assert ended.end.use.core_seconds > 0
        assert site.store.jobs == {}
        assert await stage.bucket.keys() == []
        seen = await stage.events(story)
        assert seen[:4] == ["StartRequested", "StartAdmitted", "JobCreated", "JobSubmitted"]
        assert "ProgressReported" in seen
        assert CANARY.encode() not in b"".join(stored.body for stored in stage.log.stored["SESSIONS"])
        await stage.app.close()
