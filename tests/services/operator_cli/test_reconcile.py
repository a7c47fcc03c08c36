"""What a reconciliation would do, shown on an emulated site without doing it."""

from __future__ import annotations

from pathlib import Path

from services.hpc_launcher.app import site_of
from services.hpc_launcher.ports import JobDescription
from services.hpc_launcher.script import marks_of, owner_of
from services.operator_cli.acts.reconcile import plan
from tests.services.hpc_launcher.stage import SUBJECTS, Stage, emulated_site, system_at
from tests.support.samples import Story


async def test_orphans_and_sessions_that_rest_are_shown_and_left_alone(tmp_path: Path) -> None:
    async with emulated_site(tmp_path) as (site, key):
        system = system_at(site, key)
        stage, port = Stage(system, tmp_path), site_of(system)
        rests, over = Story(), Story()
        await stage.admit(rests)
        await stage.append(over.requested(), over.admitted(), over.created("gone"), over.stop(), over.ended())
        assert [each.session for each in await plan("farlab", stage.log, SUBJECTS, system, port)] == [rests.session]
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
            found = await plan("farlab", stage.log, SUBJECTS, system, port)
            assert [(each.what, each.session or each.job) for each in found] == [
                ("decide anew", rests.session),
                ("remove job", job),
            ]
        await port.close()
        await stage.app.close()
