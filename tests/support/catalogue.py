"""A small system catalogue and users for tests. Omits sites and tunnels that answer: nothing is reached."""

from __future__ import annotations

from schemas.base import SystemName
from services._runtime.systems import DirectReach, Partition, System, UnicoreSite
from services.accounts.settings import User, UserAccount, UserSystem


def system(name: str = "demo-hpc") -> System:
    """An HPC system with two partitions: batch (4 nodes, 4 GPUs a node) and devel (1 node, two hours)."""
    return System(
        title="Demo HPC",
        name=SystemName(name),
        site=UnicoreSite(
            url="https://127.0.0.1:1/DEMO/rest/core", issuer_dn="CN=Farlab", delegation_key_file="/nowhere/key.pem"
        ),
        reach=DirectReach(networks=["127.30.0.0/24"]),
        partitions={
            "batch": Partition(max_nodes=4, cores_per_node=16, gpus_per_node=4, reservations=["workshop"]),
            "devel": Partition(max_runtime_seconds=7200),
        },
    )


def user(name: str = "ada", projects: dict[str, list[str]] | None = None) -> User:
    """A user with one account `<name>1` on demo-hpc."""
    return User(
        name=name,
        systems={
            "demo-hpc": UserSystem(
                site_identity=f"CN={name}",
                accounts=[UserAccount(name=f"{name}1", projects={"ztrain": []} if projects is None else projects)],
            )
        },
    )
