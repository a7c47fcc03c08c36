"""Limiter and breaker under a driven clock."""

from __future__ import annotations

import asyncio

import pytest

from services.hpc_launcher.limits import FAILURES_TO_OPEN, LONGEST_OPEN_SECONDS, Breaker, Limiter


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def opened(clock: Clock) -> Breaker:
    breaker = Breaker(clock)
    for _ in range(FAILURES_TO_OPEN):
        assert breaker.closed_seconds() == 0
        breaker.begin()
        breaker.failed("no answer")
    return breaker


def test_a_dead_site_is_refused_at_once_and_probed_by_one_request() -> None:
    clock = Clock()
    breaker = opened(clock)
    assert breaker.is_open
    assert breaker.closed_seconds() == pytest.approx(5)
    clock.now += 5
    assert breaker.closed_seconds() == 0
    breaker.begin()
    assert breaker.closed_seconds() > 0
    breaker.succeeded()
    assert not breaker.is_open
    assert breaker.closed_seconds() == 0


def test_failed_probes_wait_longer_up_to_a_bound() -> None:
    clock = Clock()
    breaker = opened(clock)
    waits = []
    for _ in range(6):
        clock.now += breaker.closed_seconds()
        breaker.begin()
        breaker.failed("still nothing")
        waits.append(breaker.closed_seconds())
    assert waits == pytest.approx([10, 20, 40, 60, 60, 60])
    assert waits[-1] == LONGEST_OPEN_SECONDS
    assert breaker.reason == "still nothing"


def test_a_cancelled_probe_does_not_block_the_next() -> None:
    clock = Clock()
    breaker = opened(clock)
    clock.now += 5
    breaker.begin()
    breaker.abandoned()
    assert breaker.closed_seconds() == 0


def test_an_answer_in_between_starts_the_count_anew() -> None:
    breaker = Breaker(Clock())
    for _ in range(3):
        for _ in range(FAILURES_TO_OPEN - 1):
            breaker.begin()
            breaker.failed("x")
        breaker.begin()
        breaker.succeeded()
    assert not breaker.is_open


async def test_no_more_than_so_many_at_once() -> None:
    limiter = Limiter(per_second=1_000_000, at_once=3, clock=asyncio.get_running_loop().time)
    inside, most = 0, 0
    gate = asyncio.Event()

    async def work() -> None:
        nonlocal inside, most
        async with limiter.turn():
            inside += 1
            most = max(most, inside)
            await gate.wait()
            inside -= 1

    tasks = [asyncio.create_task(work()) for _ in range(10)]
    while inside < 3:
        await asyncio.sleep(0)
    gate.set()
    await asyncio.gather(*tasks)
    assert most == 3


def test_the_rate_holds_after_a_short_burst() -> None:
    clock = Clock()
    limiter = Limiter(per_second=10, at_once=5, clock=clock)
    waits = [max(0.0, limiter._book()) for _ in range(25)]
    assert waits[:5] == [0.0] * 5
    assert waits[-1] == pytest.approx(2.0)
    clock.now += 60
    assert limiter._book() < 0
