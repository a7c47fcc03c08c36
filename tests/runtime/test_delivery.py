"""From error to answer: the table, and that every delivery gets exactly one."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.publication import sample_of
from schemas.session import JobCreated, SessionEvent
from schemas.subjects import Subjects
from schemas.wire import UndecodableError, UnknownTypeError, encode
from services._runtime.delivery import (
    LONGEST_BACKOFF_SECONDS,
    TRIES,
    Acknowledge,
    Bury,
    Retry,
    SessionDeliveries,
    backoff_seconds,
    reaction,
)
from services._runtime.errors import PermanentError, TransientError
from services._runtime.log import ConflictError
from services._runtime.memory import MemoryLog
from tests.support.samples import Story, stamp

SUBJECTS = Subjects()


@pytest.mark.parametrize(
    ("error", "attempt", "expected"),
    [
        (UnknownTypeError("x.v9"), 1, Acknowledge),
        (UndecodableError("broken"), 1, Bury),
        (TransientError("away"), 1, Retry),
        (TransientError("away"), 1000, Retry),
        (TransientError("away", 30.0), 1, Retry),
        (ConflictError("scope", []), 1, Retry),
        (PermanentError("no", "no", "no"), 1, Bury),
        (ZeroDivisionError(), 1, Retry),
        (ZeroDivisionError(), TRIES, Bury),
    ],
)
def test_each_error_has_its_reaction(error: Exception, attempt: int, expected: type) -> None:
    assert isinstance(reaction(error, attempt, 0.5), expected)


def test_a_stated_delay_is_kept() -> None:
    answer = reaction(TransientError("away", 30.0), 1, 0.0)
    assert answer == Retry(30.0)


@given(st.integers(1, 10_000), st.floats(0, 1, exclude_max=True))
def test_backoff_grows_and_is_bounded(attempt: int, jitter: float) -> None:
    assert 0.1 < backoff_seconds(attempt, jitter) <= LONGEST_BACKOFF_SECONDS
    assert backoff_seconds(attempt, 0.0) <= backoff_seconds(attempt + 1, 0.0)


class Given:
    """A delivery that remembers how it was answered."""

    def __init__(self, body: bytes, subject: str, attempt: int = 1) -> None:
        self.subject, self.body, self.attempt, self.sequence = subject, body, attempt, 1
        self.answers: list[str] = []

    async def acknowledge(self) -> None:
        self.answers.append("acknowledged")

    async def retry(self, delay_seconds: float) -> None:
        self.answers.append("retried")

    async def working(self) -> None:
        self.answers.append("working")


class Service:
    """A handler that fails as told, and what was said to users."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.ack_wait_seconds = 10.0
        self.handled: list[SessionEvent] = []
        self.told: list[str] = []
        self.log = MemoryLog()

    async def handle(self, event: SessionEvent, sequence: int) -> None:
        self.handled.append(event)
        await self.busy()
        if self.error is not None:
            raise self.error

    async def busy(self) -> None:
        """What the handler is at before it returns or fails."""

    async def fail(self, event: SessionEvent, error: PermanentError) -> None:
        self.told.append(error.reason)

    async def answer(self, body: bytes, subject: str = "", attempt: int = 1) -> list[str]:
        deliveries = SessionDeliveries(
            service="svc",
            log=self.log,
            subjects=SUBJECTS,
            handle=self.handle,
            fail=self.fail,
            ack_wait_seconds=self.ack_wait_seconds,
        )
        given = self.given = Given(body, subject, attempt)
        await deliveries.deliver(given)
        return given.answers


EVENT = stamp()(Story().requested(), after=0, cause=None)
SUBJECT = SUBJECTS.session_event(EVENT)


class SlowService(Service):
    """A handler that is not done before the log was told twice that it works."""

    async def busy(self) -> None:
        async with asyncio.timeout(20):
            while self.given.answers.count("working") < 2:
                await asyncio.sleep(0.005)


async def test_long_work_is_kept_in_hand_until_it_is_done_and_no_longer() -> None:
    service = SlowService()
    service.ack_wait_seconds = 0.05
    answers = await service.answer(encode(EVENT), SUBJECT)
    assert answers[:2] == ["working", "working"]
    assert answers.count("acknowledged") == 1
    said = len(answers)
    await asyncio.sleep(service.ack_wait_seconds)  # nothing is to happen: only time can show it
    assert len(answers) <= said + 1


async def test_what_is_handled_is_acknowledged() -> None:
    service = Service()
    assert await service.answer(encode(EVENT), SUBJECT) == ["acknowledged"]
    assert service.handled == [EVENT]


async def test_what_may_work_later_comes_again_and_nobody_is_told() -> None:
    service = Service(TransientError("site down"))
    assert await service.answer(encode(EVENT), SUBJECT, attempt=500) == ["retried"]
    assert (service.told, service.log.dead) == ([], [])


async def test_an_undecodable_body_becomes_a_dead_letter_whole() -> None:
    service = Service()
    assert await service.answer(b"{not json", SUBJECT) == ["acknowledged"]
    assert [dead.body for dead in service.log.dead] == [b"{not json"]
    assert service.log.dead[0].headers["Farlab-Subject"] == SUBJECT
    assert service.handled == []


async def test_a_message_of_tomorrow_is_skipped() -> None:
    service = Service()
    body = encode(EVENT).replace(b"start-requested.v1", b"start-requested.v7")
    assert await service.answer(body, SUBJECT) == ["acknowledged"]
    assert (service.handled, service.log.dead) == ([], [])


@pytest.mark.parametrize("other", [Story().created(), sample_of(JobCreated)])
async def test_a_body_that_says_other_than_its_subject_is_never_handled(other: SessionEvent) -> None:
    service = Service()
    forged = stamp("mallory")(other, after=0, cause=None)
    assert await service.answer(encode(forged), SUBJECT) == ["acknowledged"]
    assert service.handled == []
    assert "does not belong to its subject" in service.log.dead[0].headers["Farlab-Reason"]


async def test_a_defect_is_tried_some_times_then_buried_and_the_user_told_without_details() -> None:
    service = Service(ZeroDivisionError("secret detail"))
    assert await service.answer(encode(EVENT), SUBJECT, attempt=TRIES - 1) == ["retried"]
    assert await service.answer(encode(EVENT), SUBJECT, attempt=TRIES) == ["acknowledged"]
    assert len(service.log.dead) == 1
    assert "secret detail" not in service.told[0]
