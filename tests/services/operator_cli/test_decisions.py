"""The debugging story, told by tests: a defect in a decider is found and its mending proved from a bundle alone."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest

from schemas.lifecycle import Created, Ended, SessionState
from schemas.session import AnySessionEvent
from services._launching.ends import ended
from services._runtime.decider import Emit
from services.hpc_launcher import app as launcher_app
from services.hpc_launcher.decide import CONSUMES, FACTS
from services.operator_cli import bundle
from services.operator_cli import replay as replaying
from services.operator_cli.histories import BundleHistories
from services.operator_cli.story.decisions import decisions, line
from services.operator_cli.story.history import History, find
from services.operator_cli.story.redecide import Decider, differences
from tests.services.hpc_launcher.stage import SUBJECTS, Stage, emulated_site, job_secrets, system_at
from tests.services.operator_cli.histories import recorded
from tests.support.samples import NOW, Story

MENDED = launcher_app.decide


def defective(state: SessionState, event: AnySessionEvent | None) -> Any:
    """Compares seconds with minutes: a month is 43,200 of them."""
    if isinstance(state, Created) and state.request.resources.runtime_seconds > 30 * 24 * 60:
        return [Emit(ended(state.request, "failed", "The runtime is longer than any system allows."))]
    return MENDED(state, event)


async def recorded_failure(folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Story, History]:
    """A start of 13 hours on an emulated site, whose launcher has the defect."""
    monkeypatch.setattr(launcher_app, "decide", defective)
    story = Story()
    async with emulated_site(folder) as (site, key):
        stage = Stage(system_at(site, key), folder)
        await stage.app.start()
        request = msgspec.structs.replace(
            story.requested(), resources=story.requested(runtime_seconds=46_800).resources
        )
        await stage.vault.put(story.session, "hpc-launcher", job_secrets())
        await stage.append(request, story.admitted())
        async with asyncio.timeout(30):
            await stage.until(story, Ended)
        await stage.log.settled()
        history = await stage.log.history("SESSIONS", SUBJECTS.session(story.session))
        await stage.app.close()
    return story, history


async def test_a_defect_is_found_and_its_mending_proved_from_a_bundle_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    story, history = await recorded_failure(tmp_path, monkeypatch)
    file = tmp_path / f"failed{bundle.SUFFIX}"
    bundle.write(file, bundle.exported([history], made_at=NOW, made_by="test"))

    source = BundleHistories(bundle.read(file))
    received = find(await source.all(), story.session)
    assert differences(received, {"hpc-launcher": Decider(defective, CONSUMES, FACTS)}) == [], "it is reproduced"
    [found] = differences(received, {"hpc-launcher": Decider(MENDED, CONSUMES, FACTS)})
    assert (found.event, found.state, found.today) == ("start-admitted", "created", "perform SubmitJob")
    assert found.recorded.startswith("session-ended outcome='failed' reason='The runtime is longer")
    deployed = decisions(received, {"hpc-launcher": Decider(defective, CONSUMES, FACTS)})
    mended = decisions(received, {"hpc-launcher": Decider(MENDED, CONSUMES, FACTS)})
    parted = [(old, new) for old, new in zip(deployed, mended, strict=True) if old != new]
    assert [(old.event, old.state) for old, _ in parted] == [("job-created", "created")]
    [(old, new)] = parted
    assert old.steps == ["emit session-ended outcome='failed' reason='The runtime is longer than any system allows.'"]
    assert new.steps[0].startswith("perform SubmitJob job='x")
    assert "hpc-launcher: perform SubmitJob" in line(new)
    assert story.user not in line(new) + line(old)
    assert await replaying.tell_decisions(source, "", as_json=False) == 0
    assert line(new) in capsys.readouterr().out


def test_a_service_that_has_nothing_to_do_is_told_so() -> None:
    story = Story()
    [first, *_] = decisions(recorded(story.requested(), story.admitted()), replaying.deciders())
    assert (first.service, first.steps) == ("accounts", ["perform Admit"])
