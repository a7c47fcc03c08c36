"""A pod that the hub reaches through a login node: launcher and tunneler on one log, JupyterLab in the pod."""

from __future__ import annotations

from pathlib import Path

import httpx
import msgspec

from schemas.lifecycle import Ended, Reachable
from schemas.secrets import HmacProof
from services._runtime.memory import MemoryBucket
from services._runtime.service import utc_now
from services._runtime.systems import SshReach
from services._runtime.vault import Vault
from services.tunneler.app import TunnelerApp
from services.tunneler.listening import PortRange
from services.tunneler.port_forward import SshWays
from services.tunneler.proof import prove
from services.tunneler.settings import TunnelerSettings
from tests.services.cloud_launcher.stage import (
    JUPYTER,
    SUBJECTS,
    Stage,
    Story,
    cloud_at,
    cluster_with_images,
    until_clean,
)
from tests.services.hpc_launcher.stage import hub_api
from tests.support.samples import stamp
from tests.support.site import login_node


async def test_a_pod_is_reached_through_a_login_node_and_proves_itself(tmp_path: Path) -> None:
    async with cluster_with_images(tmp_path) as cluster, hub_api() as hub, login_node(tmp_path) as node:
        (tmp_path / "known_hosts").write_text(node.known_hosts)
        reach = SshReach(
            login_nodes=[f"{node.configuration.host}:{node.port}"],
            user="farlab",
            key_file=str(tmp_path / "id_ed25519"),
            known_hosts_file=str(tmp_path / "known_hosts"),
            networks=["127.0.0.0/8"],
        )
        cloud = msgspec.structs.replace(cloud_at(cluster.kubeconfig, image=JUPYTER, pod={"patch": {}}), reach=reach)
        stage = Stage(cloud, tmp_path)
        tunneler = TunnelerApp(
            log=stage.log,
            leases=MemoryBucket(),
            vault=Vault(stage.bucket, stage.keys, "tunneler"),
            subjects=SUBJECTS,
            stamp=stamp("tunneler-one"),
            systems=stage.clouds,
            ways={cloud.name: SshWays(reach, PortRange("127.0.0.1", (0, 0)))},
            prove=prove,
            settings=TunnelerSettings(replica="one", check_seconds=1.0, reconcile_seconds=0.2),
            now=utc_now,
        )
        await stage.app.start()
        await tunneler.start()
        story = Story()
        await Vault(stage.bucket, stage.keys, "hub-bridge").put(story.session, "tunneler", HmacProof(key="ab" * 32))
        await stage.admit(story, JUPYTERHUB_API_URL=hub)
        reached = await stage.until(story, Reachable)
        assert reached.tunnel.via == reach.login_nodes[0]
        assert node.opened > 0
        async with httpx.AsyncClient(trust_env=False) as client:
            server = f"http://{reached.tunnel.host}:{reached.tunnel.port}/user/ada"
            assert (await client.get(f"{server}/api/kernels")).status_code == 403
        await stage.append(story.stop())
        assert (await stage.until(story, Ended)).end.outcome == "stopped"
        await until_clean(cluster)
        await stage.log.settled()
        await tunneler.close()
        await stage.app.close()
