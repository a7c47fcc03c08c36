"""The driven loop: virtual time, lives that end without a last word, lives that freeze."""

from __future__ import annotations

import asyncio

import pytest

from tests.simulation.loop import Life, SimLoop


@pytest.fixture
def loop() -> SimLoop:
    def defect(what: str) -> None:
        raise AssertionError(what)

    return SimLoop(defect)


def never() -> bool:
    return False


def test_hours_pass_in_no_time_and_in_order(loop: SimLoop) -> None:
    told: list[str] = []

    async def wait(seconds: float) -> None:
        await asyncio.sleep(seconds)
        told.append(f"{seconds:g}")

    life = Life("one")
    for seconds in (7200, 0, 30):
        loop.begin(life, wait(seconds))
    loop.run(100_000, never)
    assert told == ["0", "30", "7200"]
    assert loop.now == 100_000
    loop.close()


def test_a_killed_life_runs_no_finally(loop: SimLoop) -> None:
    told: list[str] = []

    async def work() -> None:
        try:
            await asyncio.sleep(10)
        finally:
            told.append("finally")

    life = Life("one")
    loop.begin(life, work())
    loop.run(5, never)
    life.dead = True
    loop.run(50, never)
    assert told == []
    loop.close()


def test_a_frozen_life_goes_on_where_it_was_when_it_thaws(loop: SimLoop) -> None:
    told: list[float] = []

    async def work() -> None:
        while True:
            await asyncio.sleep(1)
            told.append(loop.now)

    life = Life("one")
    loop.begin(life, work())
    loop.run(2.5, never)
    life.frozen = True
    loop.run(10, never)
    assert told == [1, 2]
    loop.thaw(life)
    loop.run(11.5, never)
    assert told == [1, 2, 10, 11]
    loop.close()


def test_a_round_without_waiting_is_found_out() -> None:
    told: list[str] = []
    loop = SimLoop(told.append)

    def again() -> None:
        loop.call_at(loop.now, again)

    loop.call_at(1.0, again)
    loop.run(10, lambda: bool(told))
    assert told == ["time stands still: something runs round and round without waiting"]
    loop.close()
