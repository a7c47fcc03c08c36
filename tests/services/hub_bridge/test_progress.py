"""What a page is told: a message for every event, and nothing of what others wrote as markup."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any, get_args
from urllib.parse import parse_qs

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.session import (
    AnySessionEvent,
    Configuring,
    JobStatusChanged,
    LogTail,
    ProgressReported,
    Queued,
    Running,
    SessionEnded,
    StartRejected,
    StartWaiting,
    StepUp,
    TunnelLost,
    Unknown,
)
from services.hub_bridge.progress import failure_html, message, messages, step_up_url
from tests.support.samples import HUB, SYSTEM, Story

STORY = Story()
COMMON: dict[str, Any] = {"hub": HUB, "system": SYSTEM, "session": STORY.session}
WHEN = datetime(2026, 11, 23, 18, 30, tzinfo=UTC)

TABLE: list[tuple[AnySessionEvent, int, str]] = [
    (STORY.requested(), 5, "Asked for a server on DEMO-HPC."),
    (StartWaiting(place_in_queue=2, reason="full", **COMMON), 6, "Waiting for its turn, place 2: full"),
    (STORY.admitted(), 10, "Account, limits and quota are checked."),
    (StartRejected(code="x", message="No budget.", remedy="", **COMMON), 10, "Refused: No budget."),
    (STORY.created(), 20, "The job exists at DEMO-HPC."),
    (STORY.submitted(), 25, "The job is handed to the scheduler."),
    (JobStatusChanged(job_status=Queued(), **COMMON), 30, "Waiting in the scheduler's queue."),
    (
        JobStatusChanged(job_status=Queued(place_in_queue=4, estimated_start=WHEN), words="PENDING", **COMMON),
        30,
        "Waiting in the scheduler's queue, place 4, expected to start at 2026-11-23 18:30 UTC. The site says: PENDING",
    ),
    (JobStatusChanged(job_status=Configuring(), **COMMON), 35, "The nodes are being prepared."),
    (JobStatusChanged(job_status=Running(), **COMMON), 40, "The job runs."),
    (
        JobStatusChanged(job_status=Unknown(evidence="time-out"), **COMMON),
        30,
        "The site gives no clear answer (time-out); the start goes on and is asked about again.",
    ),
    (ProgressReported(percent=0, message="Begin", **COMMON), 40, "Begin"),
    (ProgressReported(percent=100, message="Done", **COMMON), 80, "Done"),
    (STORY.listening(), 85, "The server is listening on its compute node."),
    (STORY.tunnel(), 92, "The way to the server is open."),
    (STORY.tunnel(generation=2), 92, "The way to the server is open again."),
    (
        TunnelLost(generation=1, reason="gone", **COMMON),
        85,
        "The way to the server broke (gone); it is being rebuilt.",
    ),
    (STORY.ready(), 98, "The server answers."),
    (STORY.stop(), 99, "Stopping, asked by ada: enough"),
    (STORY.ended(), 100, "stopped by ada"),
]


@pytest.mark.parametrize(("event", "percent", "text"), TABLE, ids=lambda value: type(value).__name__)
def test_each_event_has_its_message(event: AnySessionEvent, percent: int, text: str) -> None:
    said = message(event, str.upper)
    assert (said["progress"], said["message"]) == (percent, text)
    assert said.get("failed", False) is isinstance(event, SessionEnded)
    assert "ready" not in said


def test_the_table_knows_every_event() -> None:
    assert {type(event) for event, _, _ in TABLE} == set(get_args(AnySessionEvent))


async def test_the_progress_never_goes_back() -> None:
    async def story() -> AsyncIterator[AnySessionEvent]:
        for event in (STORY.listening(), JobStatusChanged(job_status=Running(), **COMMON), STORY.tunnel()):
            yield event

    assert [said["progress"] async for said in messages(story())] == [85, 85, 92]


def test_a_failure_tells_reason_remedy_and_the_logs() -> None:
    tail = LogTail(stderr="module: not found", site="FAILED")
    end = SessionEnded(outcome="failed", reason="The job failed.", remedy="Load less.", log_tail=tail, **COMMON)
    said = message(end)
    assert said["message"] == "The job failed. Load less."
    assert "<pre>module: not found</pre>" in said["html_message"]
    assert said["html_message"].count("<details>") == 2


@given(*[st.text(max_size=50)] * 4)
def test_nothing_of_what_others_wrote_is_markup(reason: str, remedy: str, errors: str, site: str) -> None:
    evil = "<script>alert(1)</script><img src=x onerror=y>&"
    tail = LogTail(stderr=errors + evil, site=site + evil)
    end = SessionEnded(outcome="failed", reason=reason + evil, remedy=remedy + evil, log_tail=tail, **COMMON)
    html = str(failure_html(end))
    for ours in ("<span>", "</span>", "<strong>", "</strong>", "<details>", "</details>", "<summary>", "</summary>"):
        html = html.replace(ours, "")
    html = html.replace("<pre>", "").replace("</pre>", "")
    assert "<" not in html
    assert ">" not in html


@pytest.mark.parametrize(
    ("wanted", "query"),
    [
        (StepUp(levels=["mfa"]), "acr_values=mfa"),
        (StepUp(levels=["https://refeds.org/profile/mfa", "gold"], max_age_seconds=600), None),
        (StepUp(max_age_seconds=60), "max_age=60"),
        (StepUp(), "again=1"),
    ],
)
def test_a_better_sign_in_is_asked_for_and_leads_back(wanted: StepUp, query: str | None) -> None:
    url = step_up_url("/hub/oauth_login", wanted, "/hub/spawn/ada/a&b")
    path, _, asked = url.partition("?")
    assert path == "/hub/oauth_login"
    assert parse_qs(asked)["next"] == ["/hub/spawn/ada/a&b"]
    if query is None:
        assert parse_qs(asked)["acr_values"] == ["https://refeds.org/profile/mfa gold"]
        assert parse_qs(asked)["max_age"] == ["600"]
    else:
        assert asked.startswith(f"{query}&next=")


def test_the_link_to_sign_in_again_is_escaped_and_only_there_where_it_helps() -> None:
    end = Story().ended()
    assert "Sign in again" not in str(failure_html(end))
    html = str(failure_html(end, '/hub/oauth_login?next="><script>'))
    assert "Sign in again" in html
    assert "<script>" not in html
