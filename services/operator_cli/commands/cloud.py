"""`farlab clouds`: what each cloud answers, and what is used of its quotas. Changes nothing."""

from __future__ import annotations

import asyncio

import msgspec
import typer

from services._runtime.clouds import CloudSystem
from services._runtime.errors import PermanentError, TransientError
from services._runtime.settings import Configuration
from services.operator_cli.commands.context import ConfigOption, JsonOption, configuration_at, run
from services.operator_cli.output import one_line, print_json, print_table

app = typer.Typer()


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """One cloud: where its pods are, and the namespace's quotas as the cluster tells them, or why it does not."""

    cloud: str
    namespace: str
    quota: str = ""
    problem: str = ""


@app.command()
def clouds(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Ask every cloud what is used of its namespace's ResourceQuota."""

    async def work() -> int:
        found = await standings(configuration_at(config))
        if as_json:
            print_json(found)
        else:
            rows = [(each.cloud, each.namespace, each.problem or each.quota or "no quota") for each in found]
            print_table(f"{len(found)} clouds", ("cloud", "namespace", "used"), rows)
        return 1 if any(each.problem for each in found) else 0

    run(work)


async def standings(here: Configuration) -> list[Standing]:
    """Every cloud, all asked at once. Raises nothing."""
    return list(await asyncio.gather(*(_asked(cloud) for cloud in here.clouds.values())))


async def _asked(cloud: CloudSystem) -> Standing:
    if cloud.site.many_namespaces:
        words = "one of each user or organisation; ask with kubectl"
        return Standing(cloud=cloud.name, namespace=cloud.site.namespace, quota=words)
    from services.cloud_launcher.app import cluster_of  # it loads the Kubernetes client, which takes a second

    cluster = cluster_of(cloud, "farlab-check")
    try:
        used = await cluster.quota(cloud.site.namespace)
    except (TransientError, PermanentError) as error:
        return Standing(cloud=cloud.name, namespace=cloud.site.namespace, problem=one_line(error.reason))
    finally:
        await cluster.close()
    return Standing(cloud=cloud.name, namespace=cloud.site.namespace, quota=used)
