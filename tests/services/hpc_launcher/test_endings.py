"""How ends are told: outcome, reason, remedy and use."""

from __future__ import annotations

from datetime import timedelta

import pytest

from schemas.session import LogTail, Use
from services._runtime.errors import TransientError
from services.hpc_launcher.endings import TAIL_BYTES, judge, log_tail, used
from services.hpc_launcher.ports import Finished, Owner, Site
from tests.support.catalogue import system
from tests.support.samples import NOW, Story

REQUEST = Story().requested()


@pytest.mark.parametrize(
    ("finished", "ran_seconds", "outcome", "words"),
    [
        (Finished(succeeded=True, exit_code=0), 60, "finished", "shut down from inside"),
        (Finished(succeeded=False, exit_code=1), 60, "failed", "The job failed with exit code 1."),
        (Finished(succeeded=False, exit_code=1, words="node died"), 60, "failed", "exit code 1: node died"),
        (Finished(succeeded=False), None, "failed", "The job failed."),
        (Finished(succeeded=False, exit_code=75), 60, "failed", "JupyterLab did not start."),
        (Finished(succeeded=False, exit_code=120), 60, "failed", "could not write its output."),
        (Finished(succeeded=False, exit_code=143), 3590, "expired", "time limit of 60 min"),
        (Finished(succeeded=False, words="Job exceeded its time limit."), 60, "expired", "time limit of 60 min"),
        (Finished(succeeded=False, words="CANCELLED DUE TO TIMEOUT"), None, "expired", "TIMEOUT"),
    ],
)
def test_what_a_jobs_end_means(finished: Finished, ran_seconds: int | None, outcome: str, words: str) -> None:
    since = None if ran_seconds is None else NOW - timedelta(seconds=ran_seconds)
    judged, reason, remedy = judge(REQUEST, finished, since, NOW)
    assert judged == outcome
    assert words in reason
    assert bool(remedy) == (outcome != "finished")


def test_use_is_counted_from_when_the_job_ran() -> None:
    assert used(system(), REQUEST, NOW - timedelta(seconds=100), NOW) == Use(core_seconds=1600)
    assert used(system(), REQUEST, None, NOW) == Use()
    assert used(system(), REQUEST, NOW, NOW - timedelta(seconds=1)) == Use()


class Files:
    """A site with files alone. Omits jobs."""

    def __init__(self, files: dict[str, bytes], broken: bool = False) -> None:
        self.files, self.broken = files, broken

    async def sizes(self, job: str, owner: Owner) -> dict[str, int]:
        if self.broken:
            raise TransientError("down")
        return {name: len(content) for name, content in self.files.items()}

    async def read(self, job: str, name: str, owner: Owner, *, offset: int, length: int) -> bytes:
        assert offset < len(self.files[name])
        return self.files[name][offset : offset + length]


async def test_the_last_lines_are_kept_within_bounds() -> None:
    site: Site = Files({"stdout": b"", "stderr": b"a" * 10_000 + "Ende ä".encode()})  # type: ignore[assignment]
    tail = await log_tail(site, "job", Owner("a", "b", "c"), Finished(succeeded=False, log="site"))
    assert tail.stdout == ""
    assert tail.stderr.endswith("Ende ä")
    assert len(tail.stderr) <= TAIL_BYTES
    assert tail.site == "site"


async def test_a_session_ends_without_its_log_too() -> None:
    site: Site = Files({}, broken=True)  # type: ignore[assignment]
    tail = await log_tail(site, "job", Owner("a", "b", "c"), Finished(succeeded=False, log="site"))
    assert tail == LogTail(site="site")
