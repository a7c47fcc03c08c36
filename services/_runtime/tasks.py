"""Cancels that reach their task for certain. Starts none."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

AGAIN_SECONDS = 0.05


async def end(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancels tasks until they are done: nats-py turns a cancel that meets a request into a time-out, and goes on."""
    waiting = {task for task in tasks if not task.done()}
    while waiting:
        for task in waiting:
            task.cancel()
        _, waiting = await asyncio.wait(waiting, timeout=AGAIN_SECONDS)


@contextmanager
def heeding_cancel() -> Iterator[None]:
    """Raises CancelledError at the end of the block if the task was cancelled in it, whatever the block made of that.

    `asyncio.wait_for` before Python 3.12 forgets a cancel that arrives together with the awaited result, and nats-py
    awaits every answer with it.
    """
    task = asyncio.current_task()
    before = task.cancelling() if task is not None else 0
    try:
        yield
    finally:
        if task is not None and task.cancelling() > before:
            raise asyncio.CancelledError
