"""`farlab clouds` against an emulated cluster."""

from __future__ import annotations

from pathlib import Path

import msgspec

from emulators.cluster.kinds import KINDS
from services._runtime.settings import Configuration, load
from services.operator_cli.commands.cloud import standings
from tests.services.cloud_launcher.stage import CLOUD, cloud_at, cluster_with_images
from tests.support.running import ROOT


async def test_what_is_used_of_a_namespace_is_told_and_what_does_not_answer_says_so(tmp_path: Path) -> None:
    async with cluster_with_images(tmp_path) as cluster:
        quota = {"metadata": {"name": "team"}, "spec": {"hard": {"pods": "10", "limits.memory": "8Gi"}}}
        cluster.store.create(KINDS["resourcequotas"], "farlab", quota)
        cloud = cloud_at(cluster.kubeconfig)
        away = msgspec.structs.replace(cloud.site, kubeconfig=str(tmp_path / "nowhere"))
        clouds = {CLOUD: cloud, "away": msgspec.structs.replace(cloud, name="away", site=away)}
        configuration = load(ROOT / "farlab.toml")
        here: Configuration = msgspec.structs.replace(configuration, clouds=clouds)
        [there, gone] = await standings(here)
        assert there.quota == "limits.memory 0 of 8Gi, pods 0 of 10"
        assert there.problem == ""
        assert "cannot be used" in gone.problem
