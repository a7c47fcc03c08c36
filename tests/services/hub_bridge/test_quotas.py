"""What a page that waits its turn is told of quotas."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from schemas.base import SessionId, SystemName, UserName
from schemas.quota import QuotaUpdated, Released, Reserved
from schemas.subjects import Subjects
from services._runtime.log import Recorded
from services._runtime.memory import MemoryLog
from services.hub_bridge.progress import Message
from services.hub_bridge.quotas import QuotaBoard, beside
from tests.support.samples import stamp

LINE = ("default", "demo-hpc")


def update(resource: str, used: int, limit: int | None, number: int = 1) -> QuotaUpdated:
    session, user = SessionId("0" * 26), UserName("ada")
    change = Reserved(session=session, user=user, amount=1) if used else Released(session=session, user=user, amount=1)
    event = QuotaUpdated(
        vo="default", system=SystemName("demo-hpc"), resource=resource, used=used, limit=limit, change=change
    )
    return stamp("accounts")(event, after=number, cause=None)


async def test_the_board_follows_the_log_and_tells_only_of_limits() -> None:
    log, subjects = MemoryLog(), Subjects()
    board = QuotaBoard(log, subjects)
    await board.start()
    for number, event in enumerate(
        (update("sessions", 4, 4), update("nodes", 9, None), update("core-seconds", 5400, 7200))
    ):
        subject = subjects.quota_updated(event)
        await log.append("QUOTAS", subject, event, scope=subject, after=0)
        assert number >= 0
    assert board.said(LINE, lambda _: "Demo HPC") == ("In use on Demo HPC: 1.5 of 2 core-hours, 4 of 4 sessions.")
    assert board.said(("default", "elsewhere")) == ""
    await board.close()


async def test_who_waits_hears_of_every_change_and_who_does_not_hears_nothing() -> None:
    board = QuotaBoard(MemoryLog(), Subjects())
    board.take(Recorded(1, update("sessions", 4, 4)))
    gate, waits = asyncio.Event(), True

    async def story() -> AsyncIterator[Message]:
        yield {"message": "asked"}
        yield {"message": "waiting, place 1"}
        await gate.wait()
        yield {"message": "admitted"}

    told: list[str] = []

    async def listen() -> None:
        async for said in beside(story(), board, lambda: LINE if waits else None, lambda name: name):
            told.append(str(said["message"]))

    listening = asyncio.create_task(listen())
    async with asyncio.timeout(5):
        while len(told) < 3:
            await asyncio.sleep(0)
        assert told == ["In use on demo-hpc: 4 of 4 sessions.", "asked", "waiting, place 1"]
        board.take(Recorded(2, update("sessions", 3, 4)))
        while len(told) < 4:
            await asyncio.sleep(0)
        assert told[3] == "In use on demo-hpc: 3 of 4 sessions."
        waits = False
        gate.set()
        board.take(Recorded(3, update("sessions", 2, 4)))
        await listening
    assert told[4:] in (["admitted"], ["In use on demo-hpc: 2 of 4 sessions.", "admitted"])


async def test_a_page_that_is_closed_leaves_nothing_behind() -> None:
    board = QuotaBoard(MemoryLog(), Subjects())
    closed = asyncio.Event()

    async def story() -> AsyncIterator[Message]:
        try:
            await asyncio.Event().wait()
            yield {}
        finally:
            closed.set()

    page = beside(story(), board, lambda: LINE, str)
    reading = asyncio.ensure_future(anext(page))
    await asyncio.sleep(0)
    reading.cancel()
    async with asyncio.timeout(5):
        await asyncio.wait([reading])
        await page.aclose()
        await closed.wait()
