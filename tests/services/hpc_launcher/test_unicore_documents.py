"""UNICORE's documents, there and back."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from schemas.session import Resources
from services.hpc_launcher import unicore_documents as documents
from services.hpc_launcher.ports import (
    Configuring,
    Finished,
    Inert,
    JobDescription,
    JobReport,
    Marks,
    Queued,
    Running,
    Unknown,
)
from tests.support.samples import HUB, Story

SESSION = Story().session


def described(resources: Resources, notification_url: str = "") -> dict[str, Any]:
    return documents.job_document(
        JobDescription(
            name="farlab-x",
            marks=Marks("farlab", HUB, SESSION),
            executable="/bin/bash",
            arguments=("start.sh",),
            files={"start.sh": "echo", "a.py": "pass"},
            partition="booster",
            project="ztrain",
            resources=resources,
            notification_url=notification_url,
        )
    )


def test_a_whole_job() -> None:
    asked = Resources(
        runtime_seconds=3600, nodes=2, cores=10, gpus=8, memory_bytes=1_000_000_001, reservation="workshop"
    )
    assert described(asked, "https://hub.example/n") == {
        "Name": "farlab-x",
        "Tags": ["farlab-installation-farlab", "farlab-hub-main", f"farlab-session-{SESSION}"],
        "haveClientStageIn": "true",
        "Umask": "077",
        "Executable": "/bin/bash",
        "Arguments": ["start.sh"],
        "Imports": [
            {"From": "inline://dummy", "To": "a.py", "Data": "pass"},
            {"From": "inline://dummy", "To": "start.sh", "Data": "echo"},
        ],
        "Resources": {
            "Queue": "booster",
            "Nodes": "2",
            "Runtime": "3600",
            "CPUsPerNode": "5",
            "GPUsPerNode": "4",
            "MemoryPerNode": "500000001",
            "Reservation": "workshop",
        },
        "Project": "ztrain",
        "NotificationSettings": {
            "URL": "https://hub.example/n",
            "status": ["QUEUED", "RUNNING", "SUCCESSFUL", "FAILED"],
            "bssStatus": ["PENDING", "CONFIGURING"],
        },
    }


def test_what_was_not_asked_for_is_left_to_the_site() -> None:
    document = described(Resources(runtime_seconds=60))
    assert document["Resources"] == {"Queue": "booster", "Nodes": "1", "Runtime": "60"}
    assert "NotificationSettings" not in document


def test_uneven_shares_are_rounded_up() -> None:
    assert described(Resources(runtime_seconds=60, nodes=3, gpus=4))["Resources"]["GPUsPerNode"] == "2"


@pytest.mark.parametrize(
    ("properties", "details", "expected"),
    [
        ({"status": "READY"}, None, Inert()),
        ({"status": "STAGINGIN"}, None, Queued(words="Files are being staged in.")),
        ({"status": "QUEUED", "statusMessage": ""}, None, Queued()),
        (
            {"status": "QUEUED"},
            {"JobState": "PENDING", "Reason": "Priority", "StartTime": "2026-11-23T12:00:00"},
            Queued(words="waiting: Priority; expected to start at 2026-11-23T12:00:00, the site's time"),
        ),
        (
            {"status": "QUEUED"},
            {"StartTime": "2026-11-23T12:00:00+00:00", "QueuePosition": "3"},
            Queued(
                place_in_queue=3,
                estimated_start=datetime(2026, 11, 23, 12, tzinfo=UTC),
                words="expected to start at 2026-11-23T12:00:00+00:00, the site's time",
            ),
        ),
        (
            {"status": "QUEUED"},
            {"rawDetailsData": "JobId=7 JobName=x\n JobState=PENDING Reason=Resources\n StartTime=Unknown"},
            Queued(words="waiting: Resources"),
        ),
        ({"status": "QUEUED"}, {"JobState": "CONFIGURING"}, Configuring()),
        ({"status": "QUEUED"}, {"JobState": "PENDING", "Reason": "None"}, Queued()),
        ({"status": "RUNNING"}, None, Running()),
        ({"status": "STAGINGOUT"}, None, Running()),
        ({"status": "SUCCESSFUL", "exitCode": "0"}, None, Finished(succeeded=True, exit_code=0)),
        (
            {"status": "FAILED", "exitCode": "1", "statusMessage": "a\nb", "log": ["one", "two"]},
            None,
            Finished(succeeded=False, exit_code=1, words="a b", log="one\ntwo"),
        ),
        ({"status": "FAILED", "exitCode": "x", "log": "no list"}, None, Finished(succeeded=False)),
        ({"status": "UNDEFINED"}, None, Unknown("The site reports the job as UNDEFINED.")),
        ({}, None, Unknown("The site reports the job as nothing.")),
        ({"status": 7}, None, Unknown("The site reports the job as 7.")),
    ],
)
def test_reports(properties: dict[str, Any], details: dict[str, Any] | None, expected: JobReport) -> None:
    assert documents.report(properties, details) == expected


def test_the_sites_log_is_bounded() -> None:
    finished = documents.report({"status": "FAILED", "log": ["ä" * 100] * 1000})
    assert isinstance(finished, Finished)
    assert len(finished.log.encode()) <= documents.SITE_LOG_BYTES + 2


@pytest.mark.parametrize(
    ("href", "expected"),
    [
        ("https://site/X/rest/core/jobs/7c0f-1", "7c0f-1"),
        ("https://internal:8080/rest/core/jobs/7c0f-1/", "7c0f-1"),
        ("https://site/jobs/../../etc", "etc"),
        ("https://site/jobs/a?b", None),
        ("https://site/jobs/", "jobs"),
        ("a b", None),
        (None, "None"),
        ("x" * 200, None),
    ],
)
def test_only_the_id_of_an_address_is_believed(href: object, expected: str | None) -> None:
    assert documents.job_id(href) == expected


def test_the_working_directory_is_found_by_its_link() -> None:
    link = {"_links": {"workingDirectory": {"href": "https://x/rest/core/storages/7c-uspace"}}}
    assert documents.storage_id(link) == "7c-uspace"
    for broken in ({}, {"_links": None}, {"_links": {"workingDirectory": "x"}}):
        assert documents.storage_id(broken) is None


def test_success_without_an_exit_code_is_an_end_from_outside() -> None:
    told = documents.report({"status": "SUCCESSFUL"})
    assert isinstance(told, Finished)
    assert (told.succeeded, told.exit_code) == (False, None)
    assert "ended from outside" in told.words
