"""What the cloud launcher needs of a cluster: pods, what is said of them, what is beside them. No implementation."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any, Protocol

import msgspec

from schemas.base import SessionId
from schemas.session import Outcome

Manifest = Mapping[str, Any]


class PodName(msgspec.Struct, frozen=True):
    """One pod: without `uid` whichever has the name now."""

    namespace: str
    name: str
    uid: str = ""

    @property
    def job(self) -> str:
        """How the log names it."""
        return f"{self.namespace}/{self.name}/{self.uid}"

    @classmethod
    def of(cls, job: str) -> PodName:
        """The pod that the log names so."""
        namespace, name, uid = (*job.split("/"), "", "")[:3]
        return cls(namespace, name, uid)


class Inert(msgspec.Struct, frozen=True):
    """The pod exists, and nothing was started: its gate is closed."""


class Queued(msgspec.Struct, frozen=True):
    """No node has it yet, and why."""

    words: str = ""


class Preparing(msgspec.Struct, frozen=True):
    """A node has it and makes its containers."""

    words: str = ""


class Running(msgspec.Struct, frozen=True):
    """Its container runs; the server in it does not answer yet, or not now."""


class Serving(msgspec.Struct, frozen=True):
    """The server in it answers at this address."""

    address: str


class Over(msgspec.Struct, frozen=True, kw_only=True):
    """It is over or can never begin: how, why and what helps. `log` says whether its container ever wrote one."""

    outcome: Outcome
    reason: str
    remedy: str = ""
    exit_code: int | None = None
    log: bool = True


class Silent(msgspec.Struct, frozen=True):
    """Nobody knows how it is: its node is silent."""

    evidence: str


Report = Inert | Queued | Preparing | Running | Serving | Over | Silent


class Seen(msgspec.Struct, frozen=True):
    """A pod of ours as it was last told. `session` is None when it names none, `leaving` when it was marked to go."""

    pod: PodName
    session: SessionId | None
    report: Report
    leaving: bool = False


class Told(msgspec.Struct, frozen=True):
    """What the cluster says of a pod by an event, in a researcher's words."""

    session: SessionId
    percent: int
    words: str
    pulling: bool = False


class Changed(msgspec.Struct, frozen=True):
    """A pod is new or another than before."""

    seen: Seen


class Gone(msgspec.Struct, frozen=True):
    """A pod is not there any more; `last` is how it was."""

    last: Seen


class Listed(msgspec.Struct, frozen=True):
    """All pods were told: what was not among these uids is gone."""

    uids: frozenset[str]


class Heard(msgspec.Struct, frozen=True):
    """The cluster answers, and nothing changed."""


PodChange = Changed | Gone | Listed | Heard


class Cluster(Protocol):
    """One cluster. Every call raises TransientError or PermanentError, and is safe to repeat."""

    async def make(self, manifest: Manifest) -> PodName:
        """Makes an object, or adopts the one of its name that an earlier try made; its name and uid.

        Raises PermanentError when the name belongs to somebody else, TransientError while an earlier one is leaving.
        """

    async def release(self, pod: PodName) -> None:
        """Opens a pod's gate. One that was opened or is gone stays so."""

    async def remove(self, pod: PodName, grace_seconds: int | None = None) -> bool:
        """Asks for a pod's end; False when there is none (any more). What it owns goes with it."""

    async def look(self, pod: PodName) -> Seen | None:
        """The pod as it is now, or None when it is gone or another has its name."""

    async def log_tail(self, pod: PodName) -> str:
        """The last lines of its server's log; empty when there is none."""

    async def quota(self, namespace: str) -> str:
        """What is used of the namespace's quotas, in words; empty when it has none."""

    def pods(self) -> AsyncIterator[PodChange]:
        """Every change of this installation's pods, for ever, beginning with all there are. One watch for all."""

    def words(self) -> AsyncIterator[Told]:
        """What the cluster says of pods from now on, for ever. One watch for all."""

    async def close(self) -> None:
        """Frees connections."""
