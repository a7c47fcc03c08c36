"""The ledger beside changes it cannot read."""

from __future__ import annotations

import asyncio

import pytest

from schemas.session import Use
from schemas.subjects import Subjects
from services._runtime.log import Unreadable
from services._runtime.memory import MemoryLog
from services.accounts.ledger import Ledger
from services.accounts.quotas import Full
from services.accounts.settings import Quota
from tests.support.samples import Story, stamp

SUBJECTS = Subjects()
QUOTA = Quota(system="demo-hpc", resource="sessions", limit=1)


@pytest.mark.parametrize("body", [b'{"type":"quota-forgiven.v1"}', b"not json"])
async def test_a_change_of_tomorrow_keeps_nobody_from_reserving(body: bytes) -> None:
    """The next change must come after it, though it changes nothing for this build."""
    log = MemoryLog()
    ledger = Ledger(log, SUBJECTS, stamp(), [QUOTA], lambda request: 1)
    await ledger.follow()
    subject = f"{SUBJECTS.quota('default', 'demo-hpc', 'sessions')}.quota-updated"
    story = Story()
    log.publish("QUOTAS", subject, body)
    async with asyncio.timeout(10):
        assert await ledger.reserve(story.requested()) is None
        log.publish("QUOTAS", subject, body)
        assert isinstance(await ledger.reserve(Story().requested()), Full)
        await ledger.release(story.session, Use())
        assert await ledger.reserve(Story().requested()) is None
    history = await log.history("QUOTAS", subject)
    assert [type(each.message) is Unreadable for each in history] == [True, False, True, False, False]
