"""One launcher for several clouds: one that is away slows nobody on the others, and catches up when it is back."""

from __future__ import annotations

from pathlib import Path

import msgspec

from schemas.base import SystemName
from schemas.lifecycle import Admitted, Ended, Listening
from services.cloud_launcher.words import SESSION_LABEL
from tests.services.cloud_launcher.stage import Stage, Story, cloud_at, cluster_with_images, left, until_clean

OTHER = SystemName("other-cloud")


async def test_a_cloud_that_is_away_slows_nobody_on_another(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    async with cluster_with_images(tmp_path) as here, cluster_with_images(tmp_path / "other") as there:
        cloud = cloud_at(here.kubeconfig)
        other = msgspec.structs.replace(cloud_at(there.kubeconfig), name=OTHER, title="Other Cloud")
        stage = Stage(cloud, tmp_path, others=[other])
        await there.shut()
        await stage.app.start()
        waits, goes = Story(OTHER), Story()
        await stage.admit(waits)
        await stage.said(waits, "Waiting for the cloud: Other Cloud cannot be reached")
        await stage.admit(goes)
        await stage.until(goes, Listening)
        await stage.append(goes.stop())
        assert (await stage.until(goes, Ended)).end.outcome == "stopped"
        assert isinstance(await stage.state(waits), Admitted)
        await there.serve()
        await stage.until(waits, Listening)
        assert [name for name in left(here) if name.startswith("pods/")] == []
        [pod] = there.store.every("pods")
        assert pod["metadata"]["labels"][SESSION_LABEL] == waits.session
        await stage.append(waits.stop())
        assert (await stage.until(waits, Ended)).end.outcome == "stopped"
        await until_clean(there)
        await stage.app.close()
