"""What a reconciliation would do, shown on an emulated site and an emulated cluster without doing it."""

from __future__ import annotations

from pathlib import Path

import msgspec

from services.cloud_launcher import manifests
from services.cloud_launcher.app import cluster_of
from services.hpc_launcher.app import site_of
from services.hpc_launcher.ports import JobDescription
from services.hpc_launcher.script import marks_of, owner_of
from services.operator_cli.acts.reconcile import jobs_at, plan, pods_at
from tests.services.cloud_launcher import stage as cloud_stage
from tests.services.hpc_launcher.stage import SUBJECTS, Stage, emulated_site, system_at
from tests.support.samples import Story


async def test_orphans_and_sessions_that_rest_are_shown_and_left_alone(tmp_path: Path) -> None:
    async with emulated_site(tmp_path) as (site, key):
        system = system_at(site, key)
        stage, port = Stage(system, tmp_path), site_of(system)
        rests, over = Story(), Story()
        await stage.admit(rests)
        await stage.append(over.requested(), over.admitted(), over.created("gone"), over.stop(), over.ended())
        jobs = jobs_at(port, "farlab")
        assert [each.session for each in await plan(stage.log, SUBJECTS, system.name, jobs)] == [rests.session]
        request, admission = over.requested(), over.admitted()
        job = await port.create(
            JobDescription(
                name="left over",
                marks=marks_of("farlab", request),
                executable="/bin/true",
                arguments=(),
                files={},
                partition="batch",
                project="ztrain",
                resources=request.resources,
            ),
            owner_of(request, admission),
        )
        for _ in range(2):
            found = await plan(stage.log, SUBJECTS, system.name, jobs)
            assert [(each.what, each.session or each.job) for each in found] == [
                ("decide anew", rests.session),
                ("remove job", job),
            ]
        await port.close()
        await stage.app.close()


async def test_pods_that_the_log_does_not_want_are_shown_and_left_alone(tmp_path: Path) -> None:
    async with cloud_stage.cluster_with_images(tmp_path) as emulated:
        cloud = cloud_stage.cloud_at(emulated.kubeconfig)
        stage, port = cloud_stage.Stage(cloud, tmp_path), cluster_of(cloud, "farlab")
        lives, forgotten = cloud_stage.Story(), cloud_stage.Story()
        pods = [await port.make(manifests.pod(cloud, "farlab", each.requested())) for each in (lives, forgotten)]
        another = await port.make(manifests.pod(cloud, "another", cloud_stage.Story().requested()))
        created = msgspec.structs.replace(lives.created(pods[0].job), system=cloud.name)
        await stage.append(lives.requested(), lives.admitted(), created)
        for _ in range(2):
            found = await plan(stage.log, SUBJECTS, cloud.name, pods_at(port))
            assert [(each.what, each.session or each.job, each.why) for each in found] == [
                ("decide anew", lives.session, "it rests in created"),
                ("remove job", pods[1].job, "the log knows no such session"),
            ]
        assert await port.look(another) is not None
        await port.close()
