"""The events in the life of a session, newest versions only. Which order is legal is told by `lifecycle`."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from schemas.base import (
    DROPPED,
    PERSONAL,
    WORDS,
    Count,
    HubNameField,
    LongText,
    Message,
    Percent,
    Port,
    PositiveInt,
    SessionIdField,
    ShortText,
    SignInIdField,
    Slug,
    SystemNameField,
    UserNameField,
    UtcDatetime,
)


class Resources(msgspec.Struct, frozen=True, kw_only=True):
    """What the user asks of the scheduler. A field that is absent is left to the site."""

    runtime_seconds: PositiveInt
    nodes: PositiveInt = 1
    cores: PositiveInt | None = None
    gpus: Count = 0
    memory_bytes: PositiveInt | None = None
    reservation: Annotated[str, Meta(max_length=255), PERSONAL] | None = None


class HpcPlace(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="hpc"):
    """Where on an HPC system: whose account, which project pays, which partition runs it."""

    account: Annotated[str, Meta(min_length=1, max_length=64), PERSONAL]
    project: Annotated[str, Meta(min_length=1, max_length=64), PERSONAL]
    partition: Annotated[str, Meta(min_length=1, max_length=64)]


class CloudPlace(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="cloud"):
    """Where on a cloud: which flavour of pod, and which of the offered images by its name; empty: the first."""

    flavour: Annotated[str, Meta(min_length=1, max_length=64)]
    image: Annotated[str, Meta(max_length=64)] = ""


Place = HpcPlace | CloudPlace


class SessionEvent(Message, frozen=True, kw_only=True):
    """Base of the events of one session: which hub asked, which system runs it, which session it is."""

    hub: HubNameField
    system: SystemNameField
    session: SessionIdField


class StartRequested(SessionEvent, frozen=True, kw_only=True, tag="start-requested.v1"):
    """A user asked for a server. Secrets are in the vault under `<session>.<recipient>`, never here.

    `sign_in` is that of the browser that asked; None where a program did.
    """

    user: UserNameField
    server_name: Annotated[str, Meta(max_length=255), PERSONAL] = ""
    vo: Slug = "default"
    place: Place
    resources: Resources
    software: Annotated[str, Meta(max_length=255)] = "jupyterlab"
    base_url: Annotated[str, Meta(max_length=1024), WORDS] = "/"
    environment: Annotated[dict[str, str], DROPPED] = msgspec.field(default_factory=dict)
    deadline: UtcDatetime
    sign_in: SignInIdField | None = None


class StartWaiting(SessionEvent, frozen=True, kw_only=True, tag="start-waiting.v1"):
    """The start waits its turn; `place_in_queue` counts from 1."""

    place_in_queue: PositiveInt
    reason: ShortText


class StartAdmitted(SessionEvent, frozen=True, kw_only=True, tag="start-admitted.v1"):
    """Access, limits, maintenance and quota were checked; the user acts at the site as `site_identity`."""

    site_identity: Annotated[str, Meta(max_length=255), PERSONAL] = ""


class StepUp(msgspec.Struct, frozen=True, kw_only=True):
    """What a sign-in must be for the start to be judged again: one of these levels (`acr`), and so recent."""

    levels: list[Annotated[str, Meta(min_length=1, max_length=255)]] = []
    max_age_seconds: PositiveInt | None = None


class StartRejected(SessionEvent, frozen=True, kw_only=True, tag="start-rejected.v1"):
    """The start is refused for good: a code for programs, a message and a remedy for people.

    `step_up` stands there where a better sign-in would help.
    """

    code: Slug
    message: ShortText
    remedy: ShortText
    step_up: StepUp | None = None


class JobCreated(SessionEvent, frozen=True, kw_only=True, tag="job-created.v1"):
    """The job exists at the site but consumes nothing yet."""

    job: Annotated[str, Meta(min_length=1, max_length=1024), PERSONAL]


class JobSubmitted(SessionEvent, frozen=True, kw_only=True, tag="job-submitted.v1"):
    """The job was handed to the scheduler."""


class Queued(msgspec.Struct, frozen=True, kw_only=True, tag_field="status", tag="queued"):
    """The scheduler has the job and has not begun it."""

    place_in_queue: PositiveInt | None = None
    estimated_start: UtcDatetime | None = None


class Configuring(msgspec.Struct, frozen=True, kw_only=True, tag_field="status", tag="configuring"):
    """Nodes are being prepared for the job."""


class Running(msgspec.Struct, frozen=True, kw_only=True, tag_field="status", tag="running"):
    """The job runs."""


class Unknown(msgspec.Struct, frozen=True, kw_only=True, tag_field="status", tag="unknown"):
    """The site does not answer or contradicts itself: the job is neither alive nor dead, by this evidence."""

    evidence: ShortText


JobStatus = Queued | Configuring | Running | Unknown


class JobStatusChanged(SessionEvent, frozen=True, kw_only=True, tag="job-status-changed.v1"):
    """The scheduler's view of the job changed; `words` are the site's own."""

    job_status: JobStatus
    words: ShortText = ""


class ProgressReported(SessionEvent, frozen=True, kw_only=True, tag="progress-reported.v1"):
    """The job says what it is doing."""

    percent: Percent
    message: ShortText


class ServerListening(SessionEvent, frozen=True, kw_only=True, tag="server-listening.v1"):
    """The user's server accepts connections on the compute node."""

    host: Annotated[str, Meta(min_length=1, max_length=255), PERSONAL]
    port: Port


class TunnelReady(SessionEvent, frozen=True, kw_only=True, tag="tunnel-ready.v1"):
    """The hub reaches the server at `host` and `port`; `generation` grows at every re-establishment."""

    host: Annotated[str, Meta(min_length=1, max_length=255), PERSONAL]
    port: Port
    generation: PositiveInt
    replica: Annotated[str, Meta(max_length=63)] = ""
    via: Annotated[str, Meta(max_length=255), PERSONAL] = ""


class TunnelLost(SessionEvent, frozen=True, kw_only=True, tag="tunnel-lost.v1"):
    """The way to the server broke, and whether it is being rebuilt."""

    generation: Count
    reason: ShortText
    rebuilding: bool = True


class ServerReady(SessionEvent, frozen=True, kw_only=True, tag="server-ready.v1"):
    """JupyterHub reached the server; the user is in."""


RefusalCode = Annotated[str, Meta(max_length=64)]
"""The code of what the world refused for good, where a service gave up on it; empty where it decided itself."""


class StopRequested(SessionEvent, frozen=True, kw_only=True, tag="stop-requested.v1"):
    """The session shall end: by whom and why."""

    by: Annotated[str, Meta(max_length=255), PERSONAL]
    reason: ShortText
    refusal: RefusalCode = ""


Outcome = Literal["stopped", "finished", "failed", "rejected", "expired", "lost"]


class LogTail(msgspec.Struct, frozen=True, kw_only=True):
    """The last lines of what the job and the site wrote, bounded; personal, so exports leave it out."""

    stdout: LongText = ""
    stderr: LongText = ""
    site: LongText = ""


class Use(msgspec.Struct, frozen=True, kw_only=True):
    """What the session consumed."""

    core_seconds: Count = 0
    gpu_seconds: Count = 0


class SessionEnded(SessionEvent, frozen=True, kw_only=True, tag="session-ended.v1"):
    """The only terminal event: the outcome, the reason in words, and what would help next time.

    `step_up` is that of a rejection which a better sign-in would turn.
    """

    outcome: Outcome
    reason: ShortText
    remedy: ShortText = ""
    exit_code: int | None = None
    log_tail: LogTail = LogTail()
    use: Use = Use()
    step_up: StepUp | None = None
    refusal: RefusalCode = ""


AnySessionEvent = (
    StartRequested
    | StartWaiting
    | StartAdmitted
    | StartRejected
    | JobCreated
    | JobSubmitted
    | JobStatusChanged
    | ProgressReported
    | ServerListening
    | TunnelReady
    | TunnelLost
    | ServerReady
    | StopRequested
    | SessionEnded
)
