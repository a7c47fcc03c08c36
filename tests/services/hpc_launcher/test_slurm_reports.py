"""What Slurm's words mean: every state, and why a job waits."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from services.hpc_launcher.login_node import farlab_slurm
from services.hpc_launcher.ports import Configuring, Finished, Inert, JobReport, Queued, Running, Unknown
from services.hpc_launcher.slurm_reports import SlurmJob, report


def job(state: str, reason: str = "", status: int | None = 0, starts_at: int = 0, restarts: int = 0) -> SlurmJob:
    return SlurmJob("7", "ada", "marks folder", state, reason, status, starts_at, restarts)


@pytest.mark.parametrize(
    ("said", "means"),
    [
        (job("PENDING", "JobHeldUser"), Inert()),
        (job("PENDING", "JobHeldAdmin"), Queued(words="An administrator of the site holds it back.")),
        (
            job("PENDING", "Priority", starts_at=1_800_000_000),
            Queued(
                words="Other jobs have a higher priority.", estimated_start=datetime.fromtimestamp(1_800_000_000, UTC)
            ),
        ),
        (job("PENDING", "None"), Queued()),
        (job("PENDING", "Weather"), Queued(words="Slurm says: Weather.")),
        (
            job("PENDING", "QOSMaxCpuPerUserLimit"),
            Queued(words="A limit of your project or of the site is reached (QOSMaxCpuPerUserLimit)."),
        ),
        (
            job("PENDING", "BeginTime", restarts=1),
            Queued(
                words="The site put the job back in the queue. It was put back in the queue and begins in a moment."
            ),
        ),
        (job("CONFIGURING"), Configuring(words="Nodes are being prepared.")),
        (job("RUNNING CONFIGURING"), Configuring(words="Nodes are being prepared.")),
        (job("COMPLETING"), Running()),
        (job("CANCELLED COMPLETING"), Running()),
        (job("COMPLETED"), Finished(succeeded=True, exit_code=0)),
        (job("FAILED", status=75 << 8), Finished(succeeded=False, exit_code=75)),
        (job("FAILED", status=9), Finished(succeeded=False, words="it ended by signal 9")),
        (job("TIMEOUT"), Finished(succeeded=False, exit_code=0, words="it reached its time limit")),
        (job("NODE_FAIL", status=None), Finished(succeeded=False, words="a node it ran on failed")),
        (
            job("PREEMPTED", status=None),
            Finished(succeeded=False, words="the site took its nodes for a job that goes before"),
        ),
        (job("CANCELLED+"), Finished(succeeded=False, exit_code=0, words="it was cancelled at the site")),
        (job("DREAMING"), Unknown("Slurm calls the job's state DREAMING")),
        (job(""), Unknown("Slurm calls the job's state nothing")),
        (job("PENDING", "None", starts_at=10**30), Queued()),
    ],
)
def test_state(said: SlurmJob, means: JobReport) -> None:
    assert report(said) == means


def test_later_versions_of_slurm_write_numbers_and_states_as_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    listed = {
        "job_id": 7,
        "user_name": "ada",
        "comment": "farlab-installation-a folder",
        "job_state": ["RUNNING", "CONFIGURING"],
        "state_reason": "None",
        "exit_code": {
            "return_code": {"set": True, "infinite": False, "number": 2},
            "signal": {"id": {"set": True, "infinite": False, "number": 9}, "name": "KILL"},
        },
        "start_time": {"set": False, "number": 5},
        "restart_cnt": 0,
    }
    other = {**listed, "comment": "somebody's"}
    monkeypatch.setattr(farlab_slurm, "slurm", lambda _: json.dumps({"jobs": [listed, other]}))
    said = farlab_slurm.answer('{"verb": "queue"}')
    assert said["jobs"] == [
        {
            "job": "7",
            "account": "ada",
            "comment": "farlab-installation-a folder",
            "state": "RUNNING CONFIGURING",
            "reason": "None",
            "status": 512 + 9,
            "starts_at": 0,
            "restarts": 0,
        }
    ]


def test_jobs_that_ended_are_told_by_later_versions_too(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = {"job_id": 7, "comment": "farlab-installation-a folder", "job_state": ["COMPLETED"]}

    def squeue(command: list[str]) -> str:  # as that of 24.11: with --json it leaves out what it leaves out without
        return json.dumps({"jobs": [ended] if {"--states=all", "--all"} <= set(command) else []})

    monkeypatch.setattr(farlab_slurm, "slurm", squeue)
    assert [each["job"] for each in farlab_slurm.answer('{"verb": "queue"}')["jobs"]] == ["7"]


@pytest.mark.parametrize("said", ["", "slurm_load_jobs error", "[]", "{}", '{"jobs": [1]}'])
def test_a_queue_that_is_no_json_of_jobs_is_refused_with_words(said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(farlab_slurm, "slurm", lambda _: said)
    assert farlab_slurm.answer('{"verb": "queue"}')["error"] == "unreadable"


@pytest.mark.parametrize(
    "request_text",
    [
        "",
        "[]",
        '{"verb": "main"}',
        '{"verb": "abort", "job": "1;id", "folder": "abcdefgh-abcdefgh"}',
        '{"verb": "sizes", "folder": "../.ssh"}',
        '{"verb": "queue", "jobs": ["--help"]}',
        '{"verb": "create", "session": "abcdefgh", "marks": "mine"}',
    ],
)
def test_the_forced_command_refuses_what_it_does_not_know(request_text: str) -> None:
    assert farlab_slurm.answer(request_text)["error"] == "bad-request"
