"""Tasks that resist their end, and what a log line says of a session."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys

import pytest

from services._runtime.tasks import end, heeding_cancel
from tests.support.running import ROOT


async def test_a_task_that_takes_a_cancel_for_a_time_out_is_ended_all_the_same() -> None:
    swallowed = 0

    async def stubborn() -> None:
        nonlocal swallowed
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                swallowed += 1
                if swallowed == 3:
                    raise

    async def obedient() -> None:
        await asyncio.Event().wait()

    tasks = [asyncio.create_task(stubborn()), asyncio.create_task(obedient())]
    await asyncio.sleep(0)
    async with asyncio.timeout(5):
        await end(tasks)
    assert [task.cancelled() for task in tasks] == [True, True]
    assert swallowed == 3


async def test_what_is_over_already_is_left_as_it_is() -> None:
    async def fails() -> None:
        raise ValueError("kept")

    task = asyncio.create_task(fails())
    await asyncio.wait({task})
    await end([task])
    await end([])
    with pytest.raises(ValueError, match="kept"):
        task.result()


async def answered(by: asyncio.Future[str], after: list[str]) -> None:
    with heeding_cancel():
        after.append(await asyncio.wait_for(by, 5))
    after.append("went on")


async def test_a_cancel_that_arrives_together_with_an_answer_is_not_forgotten() -> None:
    answer, after = asyncio.get_running_loop().create_future(), list[str]()
    task = asyncio.create_task(answered(answer, after))
    await asyncio.sleep(0)
    answer.set_result("yes")
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()
    assert "went on" not in after


async def test_a_cancel_taken_for_a_time_out_is_a_cancel_again_and_cleaning_up_goes_on() -> None:
    cleaned = False

    async def gives_up() -> None:
        nonlocal cleaned
        try:
            with heeding_cancel():
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    raise TimeoutError from None
        finally:
            with heeding_cancel():
                await asyncio.sleep(0)
            cleaned = True

    task = asyncio.create_task(gives_up())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()
    assert cleaned


async def test_a_time_out_around_the_block_stays_a_time_out() -> None:
    async def too_slow() -> None:
        async with asyncio.timeout(0.01):
            with heeding_cancel():
                await asyncio.Event().wait()

    with pytest.raises(TimeoutError):
        await too_slow()


PROGRAM = """
import logging, structlog
from services._runtime.telemetry import configure_logs
configure_logs("tunneler", level="info", log_format={form!r})
structlog.contextvars.bind_contextvars(session="s1", system="juwels")
log = structlog.get_logger("farlab.test")
log.debug("not shown")
log.info("tunnel up", port=7)
logging.getLogger("some.library").warning("careful\\nwith lines")
logging.getLogger("httpx").info("not shown either")
try:
    1 / 0
except ZeroDivisionError as error:
    log.error("broke", exc_info=error)
"""


def printed(form: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(form=form)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == ""
    return done.stderr.splitlines()


def test_a_log_line_is_json_with_service_session_and_system() -> None:
    lines = [json.loads(line) for line in printed("json")]
    assert [line["event"] for line in lines] == ["tunnel up", "careful\nwith lines", "broke"]
    first = lines[0]
    assert (first["service"], first["session"], first["system"], first["port"]) == ("tunneler", "s1", "juwels", 7)
    assert (first["level"], first["logger"]) == ("info", "farlab.test")
    assert first["timestamp"].endswith("Z")
    assert lines[2]["exception"][0]["exc_type"] == "ZeroDivisionError"


def test_on_a_terminal_a_line_is_for_people() -> None:
    first = printed("terminal")[0]
    assert "tunnel up" in first
    assert "port=7" in first
    assert not first.startswith("{")
