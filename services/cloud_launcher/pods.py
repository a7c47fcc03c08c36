"""The pods of one cloud as they were last told, kept by one watch. Asks for none and records nothing."""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from typing import cast

from schemas.base import SessionId
from schemas.lifecycle import SessionState, WithJob
from services.cloud_launcher.ports import Changed, Cluster, Gone, Heard, Listed, PodChange, PodName, Seen

GONE_KEPT = 1000
"""How many pods that are gone are remembered, for the words of their sessions' ends."""


class Pods:
    """What is known of the pods. `changed` is called with every session whose pod is another than before."""

    def __init__(self, cluster: Cluster, changed: Callable[[SessionId], None], clock: Callable[[], float]) -> None:
        self._cluster = cluster
        self._changed = changed
        self._clock = clock
        self._there: dict[str, Seen] = {}
        self._gone: OrderedDict[str, Seen] = OrderedDict()
        self._waiting: dict[str, asyncio.Event] = {}
        self.synced = False
        self.heard_at = clock()

    def get(self, uid: str) -> Seen | None:
        """The pod, where it is there."""
        return self._there.get(uid)

    def last(self, uid: str) -> Seen | None:
        """How a pod was before it went, where that is remembered."""
        return self._gone.get(uid)

    def all(self) -> list[Seen]:
        """Every pod of this installation."""
        return list(self._there.values())

    async def run(self) -> None:
        """Follows the pods for ever. Ends by cancel."""
        stream = cast("AsyncGenerator[PodChange, None]", self._cluster.pods())
        async with contextlib.aclosing(stream):
            async for change in stream:
                self.heard_at = self._clock()
                match change:
                    case Changed(seen=seen):
                        if self._there.get(seen.pod.uid) != seen:
                            self._there[seen.pod.uid] = seen
                            self._tell(seen)
                    case Gone(last=last):
                        self._drop(self._there.get(last.pod.uid, last))
                    case Listed(uids=uids):
                        for missing in [seen for uid, seen in self._there.items() if uid not in uids]:
                            self._drop(missing)
                        self.synced = True
                    case Heard():
                        pass

    async def gone(self, uid: str, timeout_seconds: float) -> bool:
        """Waits until a pod is told to be gone; False when that takes too long, or nobody tells."""
        if not self.synced or uid in self._gone:
            return uid in self._gone
        waiter = self._waiting.setdefault(uid, asyncio.Event())
        try:
            async with asyncio.timeout(timeout_seconds):
                await waiter.wait()
        except TimeoutError:
            return False
        finally:
            self._waiting.pop(uid, None)
        return True

    def _drop(self, seen: Seen) -> None:
        uid = seen.pod.uid
        self._there.pop(uid, None)
        self._gone[uid] = seen
        if len(self._gone) > GONE_KEPT:
            self._gone.popitem(last=False)
        if (waiter := self._waiting.get(uid)) is not None:
            waiter.set()
        self._tell(seen)

    def _tell(self, seen: Seen) -> None:
        if seen.session is not None:
            self._changed(seen.session)


def strays(states: Mapping[SessionId, SessionState], pods: Iterable[Seen]) -> list[Seen]:
    """The pods that may be unwanted by what the view knows; the log itself has the last word on them."""
    return [seen for seen in pods if not seen.leaving and not _wanted(states.get(seen.session or SessionId("")), seen)]


def _wanted(state: SessionState | None, seen: Seen) -> bool:
    return isinstance(state, WithJob) and PodName.of(state.job).uid == seen.pod.uid


async def listed(cluster: Cluster) -> list[Seen]:
    """Every pod of this installation that is there now. Raises TransientError and PermanentError."""
    pods: list[Seen] = []
    stream = cast("AsyncGenerator[PodChange, None]", cluster.pods())
    async with contextlib.aclosing(stream):
        async for change in stream:
            match change:
                case Changed(seen=seen):
                    pods.append(seen)
                case Listed():
                    break
                case _:
                    pass
    return pods
