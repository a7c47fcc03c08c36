"""Who gets nodes and who waits: in order within a queue, beyond no limit, and nothing is lost when one gives up."""

from __future__ import annotations

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st

from emulators.unicore_site.batch import Allocation, BatchSystem
from emulators.unicore_site.configuration import Queue, SiteConfiguration


def batch(jobs_per_node: int = 1, **queues: Queue) -> BatchSystem:
    return BatchSystem(
        SiteConfiguration(
            folder="unused",
            compute_nodes=["n1", "n2"],
            jobs_per_node=jobs_per_node,
            queues=queues or {"batch": Queue()},
        )
    )


def ask(system: BatchSystem, queue: str = "batch", slots: int = 1) -> tuple[asyncio.Task[Allocation], list[int]]:
    places: list[int] = []
    return asyncio.create_task(system.allocate(queue, slots, places.append)), places


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_nodes_go_round_and_the_rest_waits_in_order() -> None:
    system = batch()
    asked = [ask(system) for _ in range(5)]
    await settled()
    assert [task.result().nodes for task, _ in asked[:2]] == [("n1",), ("n2",)]
    assert [places for _, places in asked] == [[], [], [1], [2], [3]]
    system.release(asked[1][0].result())
    await settled()
    assert asked[2][0].result().nodes == ("n2",)
    assert [places for _, places in asked[3:]] == [[2, 1], [3, 2]]
    for task, _ in asked[3:]:
        task.cancel()


async def test_a_full_queue_holds_up_no_other() -> None:
    system = batch(jobs_per_node=8, small=Queue(nodes_at_once=1), large=Queue())
    first, _ = ask(system, "small")
    second, places = ask(system, "small")
    third, _ = ask(system, "large", slots=2)
    await settled()
    assert first.done()
    assert not second.done()
    assert places == [1]
    assert sorted(third.result().nodes) == ["n1", "n2"]
    system.release(first.result())
    assert (await second).queue == "small"


async def test_a_large_job_is_not_overtaken_in_its_queue() -> None:
    system = batch()
    first, _ = ask(system)
    large, _ = ask(system, slots=2)
    small, _ = ask(system)
    await settled()
    assert (first.done(), large.done(), small.done()) == (True, False, False)
    system.release(first.result())
    assert (await large).nodes == ("n1", "n2")
    assert not small.done()
    small.cancel()


async def test_who_gives_up_leaves_no_gap_even_when_the_nodes_had_just_come() -> None:
    system = batch()
    held = [ask(system)[0] for _ in range(2)]
    waiting, _ = ask(system)
    last, places = ask(system)
    await settled()
    system.release(held[0].result())
    waiting.cancel()
    await asyncio.wait([waiting])
    assert waiting.cancelled()
    assert (await last).nodes == ("n1",)
    assert places == [2, 1]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["a", "b"]), st.integers(1, 3), st.booleans()), max_size=25))
def test_no_limit_is_exceeded_and_all_who_stay_get_nodes(jobs: list[tuple[str, int, bool]]) -> None:
    async def play() -> int:
        system = batch(jobs_per_node=2, a=Queue(nodes_at_once=3), b=Queue())
        held: list[Allocation] = []

        async def live(queue: str, slots: int) -> None:
            allocation = await system.allocate(queue, slots, lambda place: None)
            held.append(allocation)
            try:
                assert sum(each.slots for each in held if each.queue == "a") <= 3
                assert all(sum(node in each.nodes for each in held) <= 2 for node in ("n1", "n2"))
                await asyncio.sleep(0)
            finally:
                held.remove(allocation)
                system.release(allocation)

        tasks = [asyncio.create_task(live(queue, slots)) for queue, slots, _ in jobs]
        await asyncio.sleep(0)
        for task, (_, _, leaves) in zip(tasks, jobs, strict=True):
            if leaves:
                task.cancel()
        async with asyncio.timeout(10):
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert held == []
        assert {type(each) for each in outcomes} <= {type(None), asyncio.CancelledError}
        return sum(each is None for each in outcomes)

    assert asyncio.run(play()) >= sum(not leaves for _, _, leaves in jobs)
