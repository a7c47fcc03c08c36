"""What the launcher asks of a site, in words of no particular site. Speaks no protocol."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Protocol

import msgspec

from schemas.base import HubName, SessionId, UserName
from schemas.session import Resources
from services._launching.comparison import TaggedJob


class Owner(msgspec.Struct, frozen=True):
    """For whom the launcher acts: how the site knows the user, with which account, paid by which project.

    `user` is who that is here.
    """

    identity: str
    account: str
    project: str
    user: UserName = UserName("")


class Marks(msgspec.Struct, frozen=True):
    """What every job carries, so that it is found again: which installation, hub and session it belongs to."""

    installation: str
    hub: HubName
    session: SessionId

    @property
    def words(self) -> list[str]:
        """The marks as tags, without the separators sites split tags by."""
        return [self.installation_word, f"farlab-hub-{self.hub}", self.session_word]

    @property
    def installation_word(self) -> str:
        """The tag that all jobs of this installation share."""
        return installation_word(self.installation)

    @property
    def session_word(self) -> str:
        """The tag of this session's job alone."""
        return f"{SESSION_PREFIX}{self.session}"


SESSION_PREFIX = "farlab-session-"


def installation_word(installation: str) -> str:
    """The tag that all jobs of an installation share."""
    return f"farlab-installation-{installation}"


def session_of(words: Collection[str]) -> SessionId | None:
    """The session that a job's tags name, or None."""
    for word in words:
        if word.startswith(SESSION_PREFIX):
            return SessionId(word.removeprefix(SESSION_PREFIX))
    return None


class JobDescription(msgspec.Struct, frozen=True, kw_only=True):
    """A job to be made. `files` are staged in and may be seen by operators: nothing secret is in here."""

    name: str
    marks: Marks
    executable: str
    arguments: tuple[str, ...]
    files: Mapping[str, str]
    partition: str
    project: str
    resources: Resources
    notification_url: str = ""


class Inert(msgspec.Struct, frozen=True):
    """The job exists and was not started."""


class Queued(msgspec.Struct, frozen=True, kw_only=True):
    """The scheduler has the job; `words` are why it waits, as the site says it."""

    place_in_queue: int | None = None
    estimated_start: datetime | None = None
    words: str = ""


class Configuring(msgspec.Struct, frozen=True):
    """Nodes are being prepared."""

    words: str = ""


class Running(msgspec.Struct, frozen=True):
    """The job runs."""


class Finished(msgspec.Struct, frozen=True, kw_only=True):
    """The job is over, by the site's word. `log` is the site's own, its last lines."""

    succeeded: bool
    exit_code: int | None = None
    words: str = ""
    log: str = ""


class Gone(msgspec.Struct, frozen=True):
    """The site answers and knows no such job."""


class Unknown(msgspec.Struct, frozen=True):
    """No word about the job: neither alive nor dead, by this evidence."""

    evidence: str


MISSING_BELIEVED = 2
"""How often in a row a site must say that it knows no such job, so that one answer out of place ends nothing."""

JobReport = Inert | Queued | Configuring | Running | Finished | Gone | Unknown


class Site(Protocol):
    """A site's batch system. Every call but `report` raises TransientError or PermanentError; all are safe to repeat.

    Jobs are named by the id the site gave them. Nothing is ever read as stopped because of an error.
    """

    async def find(self, marks: Marks, owner: Owner) -> list[str]:
        """The session's jobs at the site, oldest first; more than one only after a lost answer."""

    async def create(self, description: JobDescription, owner: Owner) -> str:
        """Makes a job that consumes nothing until it is started; its id."""

    async def stage(self, job: str, files: Mapping[str, bytes], owner: Owner) -> None:
        """Puts secret files into the directory of a job that was not started, readable by its owner alone."""

    async def start(self, job: str, owner: Owner) -> None:
        """Hands the job to the scheduler; a started job stays as it is."""

    async def abort(self, job: str, owner: Owner) -> None:
        """Asks for the job's end; a job that is over or gone stays so."""

    async def delete(self, job: str, owner: Owner) -> None:
        """Removes the job and its directory, ending it where it must; a job that is gone is no error."""

    async def report(self, job: str, owner: Owner) -> JobReport:
        """What the site says of the job now. Raises nothing: an error is Unknown, with the evidence."""

    async def sizes(self, job: str, owner: Owner) -> dict[str, int]:
        """The files of the job's directory with their sizes in bytes; empty when there is none (yet)."""

    async def read(self, job: str, name: str, owner: Owner, *, offset: int, length: int) -> bytes:
        """At most `length` bytes of a file from `offset`, which must lie within it. Empty when it is gone."""

    async def tagged_jobs(self, installation: str, owner: Owner, known: Collection[str]) -> Sequence[TaggedJob]:
        """The owner's jobs with this installation's tag that are not among the `known`."""

    async def certificate(self, *, fresh: bool = False) -> str:
        """The site's own certificate (PEM), which signs notifications; from memory unless `fresh`."""

    def troubles(self) -> Sequence[str]:
        """Why the site cannot be used right now, one line each."""

    async def close(self) -> None:
        """Frees connections."""
