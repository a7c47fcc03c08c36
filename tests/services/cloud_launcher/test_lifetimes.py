"""When a server's time is over: truth tables, and one that nobody uses, on a cluster."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from schemas.lifecycle import Ended, Listening
from services._runtime.clouds import Flavour
from services.cloud_launcher.lifetimes import End, Life, Warn, judged
from tests.services.cloud_launcher.stage import Stage, Story, cloud_at, cluster_with_images, until_clean

NOON = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
FLAVOUR = Flavour(max_age_seconds=28_800, idle_seconds=3600, warning_seconds=600)
IDLE = "Warning: this server ends at 13:00 UTC: nobody used it for 60 min. Save your work."
AGE = "Warning: this server ends at 20:00 UTC: it reached its maximum age of 8 h. Save your work."


def after(minutes: float) -> datetime:
    return NOON + timedelta(minutes=minutes)


@pytest.mark.parametrize(
    ("minutes", "used", "warned", "expected"),
    [
        (49, 0, None, None),
        (50, 0, None, Warn(IDLE)),
        (55, 0, (IDLE, 50), None),
        (60, 0, (IDLE, 50), End("The server was ended: nobody used it for 60 min.")),
        (60, 55, (IDLE, 50), None),
        (
            110,
            55,
            (IDLE, 50),
            Warn("Warning: this server ends at 14:00 UTC: nobody used it for 60 min. Save your work."),
        ),
        (300, 0, None, Warn("Warning: this server ends at 17:10 UTC: nobody used it for 60 min. Save your work.")),
        (469, 460, None, None),
        (470, 460, None, Warn(AGE)),
        (480, 479, (AGE, 470), End("The server was ended: it reached its maximum age of 8 h.")),
        (475, 474, (AGE, 470), None),
    ],
)
def test_an_end_is_announced_a_whole_warning_before(
    minutes: float, used: float, warned: tuple[str, float] | None, expected: object
) -> None:
    announced = (warned[0], after(warned[1])) if warned else None
    life = Life(since=NOON, max_age_seconds=28_800, used_at=after(used), warned=announced)
    assert judged(FLAVOUR, life, after(minutes)) == expected


def test_without_an_idle_time_only_age_counts() -> None:
    flavour = Flavour(max_age_seconds=3600, warning_seconds=60)
    life = Life(since=NOON, max_age_seconds=3600, used_at=NOON)
    assert judged(flavour, life, after(58)) is None
    assert isinstance(judged(flavour, life, after(59)), Warn)


async def test_a_server_nobody_uses_is_warned_and_ended_and_one_in_use_stays(tmp_path: Path) -> None:
    flavours = {"small": Flavour(idle_seconds=3600)}
    moved = timedelta()

    def now() -> datetime:
        return datetime.now(UTC) + moved

    async with cluster_with_images(tmp_path) as cluster:
        stage = Stage(cloud_at(cluster.kubeconfig, flavours=flavours), tmp_path, now=now)
        await stage.app.start()
        idle, busy = Story(), Story()
        for story in (idle, busy):
            await stage.admit(story, story.requested(runtime_seconds=86_400))
            await stage.until(story, Listening)
        await stage.activity.put(busy.session, (now() + timedelta(minutes=54)).isoformat().encode())
        moved = timedelta(minutes=55)
        await stage.said(idle, "Warning: this server ends at")
        moved = timedelta(minutes=70)
        ended = await stage.until(idle, Ended)
        assert (ended.end.outcome, ended.end.reason) == ("expired", "The server was ended: nobody used it for 60 min.")
        assert "Warning" not in await stage.words(busy)
        assert isinstance(await stage.state(busy), Listening)
        await stage.append(busy.stop())
        await stage.until(busy, Ended)
        await until_clean(cluster)
        await stage.app.close()
