"""A UNICORE site as the launcher's port: jobs, their files, their marks. Decides nothing about sessions."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Collection, Mapping
from typing import Any

from schemas.base import SessionId
from services._launching.comparison import TaggedJob
from services._runtime.errors import PermanentError, TransientError
from services.hpc_launcher import unicore_documents as documents
from services.hpc_launcher.ports import (
    Gone,
    JobDescription,
    JobReport,
    Marks,
    Owner,
    Unknown,
    installation_word,
    session_of,
)
from services.hpc_launcher.unicore_client import NotFoundError, SiteFaultError, UnicoreClient
from services.hpc_launcher.user_tokens import OwnToken

PAGE = 200
MOST_PAGES = 100
REFUSALS_BELIEVED = 5
"""UNICORE/X answers 500 for some jobs it will never take; after so many in a row it is believed."""
REMEMBERED = 10_000
MADE_AGAIN_SECONDS = 0.1
PREPARING_SECONDS = (0.1, 0.2, 0.4, 0.8, 1.6)
"""UNICORE/X answers a create before the job's directory is there, and its file API with a 500 until then."""
LOST_AFTER_SECONDS = 10.0
"""How long an inert job's directory may be missing or of no use.

Of a job that it was making as it crashed, UNICORE/X never has one, or one to which every upload is a 500 for ever.
"""


class UnicoreSiteAdapter:
    """See `ports.Site`. Job ids are UNICORE's; addresses derive from the configured base, never from answers."""

    def __init__(self, client: UnicoreClient, own_token: OwnToken | None = None) -> None:
        """With `own_token`, a job is made by the word of its user; else, and ever after, by delegation."""
        self._client = client
        self._own_token = own_token
        self._storages: OrderedDict[str, str] = OrderedDict()
        self._refusals: OrderedDict[SessionId, int] = OrderedDict()
        self._unusable_since: OrderedDict[str, float] = OrderedDict()
        self._certificate = ""

    async def find(self, marks: Marks, owner: Owner) -> list[str]:
        """See Site."""
        jobs = await self._list(marks.session_word, owner)
        if len(jobs) < 2:
            return jobs
        dated = []
        for job in jobs:
            try:
                properties = await self._properties(job, owner, "submissionTime")
            except NotFoundError:
                continue
            dated.append((str(properties.get("submissionTime", "")), job))
        return [job for _, job in sorted(dated)]

    async def create(self, description: JobDescription, owner: Owner) -> str:
        """See Site."""
        session = description.marks.session
        document = documents.job_document(description)
        token = await self._presented(owner, self._own_token) if self._own_token is not None else ""
        try:
            answer = await self._client.call("creating the job", "POST", "/jobs", owner, document=document, token=token)
        except SiteFaultError as error:
            self._count_refusal(session, error)
            raise
        except NotFoundError as error:
            raise TransientError(str(error)) from None
        self._refusals.pop(session, None)
        job = documents.job_id(answer.headers.get("Location"))
        if job is None:
            raise TransientError(f"{self._client.title} made a job and did not say which")
        return job

    async def _presented(self, owner: Owner, own_token: OwnToken) -> str:
        """The user's token, once the site takes its bearer for the owner: delegation could not end another's job."""
        token = await own_token(owner.user)
        try:
            about = await self._client.document("presenting your sign-in", "", owner, token=token)
        except NotFoundError as error:
            raise TransientError(str(error)) from None
        known_as = documents.distinguished_name(about)
        if not documents.same_name(known_as, owner.identity):
            raise PermanentError(
                "another-identity",
                f"{self._client.title} takes your sign-in for {known_as[:200] or 'nobody'}, "
                f"and you are configured here as {owner.identity[:200]}.",
                "Ask the operator of this service to compare both names.",
            )
        return token

    async def stage(self, job: str, files: Mapping[str, bytes], owner: Owner) -> None:
        """See Site. The storage's umask keeps files private from their first byte; permissions make sure."""
        try:
            storage = f"/storages/{await self._storage(job, owner)}"
            umask = {"umask": "077"}
            await self._client.call("preparing the job's directory", "PUT", storage, owner, document=umask)
            for name, content in files.items():
                await self._put_once_prepared(f"{storage}/files/{name}", content, owner)
        except NotFoundError as error:
            await self._give_up_unusable(job, owner, believed=error.certain)
            raise TransientError(str(error)) from None
        except SiteFaultError:
            await self._give_up_unusable(job, owner, believed=True)
            raise
        self._unusable_since.pop(job, None)

    async def _give_up_unusable(self, job: str, owner: Owner, *, believed: bool) -> None:
        """Removes an inert job whose directory the site lost or cannot write to, so that the next try makes another."""
        since = self._unusable_since.get(job)
        if since is None:
            _remember(self._unusable_since, job, time.monotonic())
        elif believed and time.monotonic() - since >= LOST_AFTER_SECONDS:
            await self.delete(job, owner)
            raise TransientError(f"{self._client.title} lost the job's directory; it is made again", MADE_AGAIN_SECONDS)

    async def start(self, job: str, owner: Owner) -> None:
        """See Site."""
        try:
            await self._client.call("submitting the job", "POST", f"/jobs/{job}/actions/start", owner, document={})
        except NotFoundError as error:
            _believe(error)
            raise PermanentError(
                "job-gone", f"The job vanished at {self._client.title} before it began.", "Start the server again."
            ) from None

    async def abort(self, job: str, owner: Owner) -> None:
        """See Site."""
        try:
            await self._client.call("ending the job", "POST", f"/jobs/{job}/actions/abort", owner, document={})
        except NotFoundError as error:
            _believe(error)

    async def delete(self, job: str, owner: Owner) -> None:
        """See Site."""
        self._storages.pop(job, None)
        self._unusable_since.pop(job, None)
        try:
            await self._client.call("removing the job", "DELETE", f"/jobs/{job}", owner)
        except NotFoundError as error:
            _believe(error)

    async def report(self, job: str, owner: Owner) -> JobReport:
        """See Site."""
        try:
            properties = await self._properties(job, owner, documents.REPORTED)
        except NotFoundError as error:
            return Gone() if error.certain else Unknown(str(error))
        except TransientError as error:
            return Unknown(error.reason)
        except PermanentError as error:
            return Unknown(error.reason)
        self._remember_storage(job, properties)
        details = await self._details(job, owner) if properties.get("status") == "QUEUED" else None
        return documents.report(properties, details)

    async def sizes(self, job: str, owner: Owner) -> dict[str, int]:
        """See Site."""
        try:
            storage = await self._storage(job, owner)
            listing = await self._client.document("listing the job's files", f"/storages/{storage}/files/", owner)
        except NotFoundError:
            return {}
        content = listing.get("content")
        if not isinstance(content, dict):
            return {}
        return {
            name.lstrip("/"): about["size"]
            for name, about in content.items()
            if isinstance(about, dict) and isinstance(about.get("size"), int) and not about.get("isDirectory")
        }

    async def read(self, job: str, name: str, owner: Owner, *, offset: int, length: int) -> bytes:
        """See Site. UNICORE/X 10 loops for ever on a range beyond the end of a file: callers ask for the size first."""
        wanted = {"Accept": "application/octet-stream", "Range": f"bytes={offset}-{offset + length - 1}"}
        try:
            path = f"/storages/{await self._storage(job, owner)}/files/{name}"
            answer = await self._client.call("reading a file of the job", "GET", path, owner, headers=wanted)
        except NotFoundError:
            return b""
        body = answer.body if answer.status == 206 else answer.body[offset:]
        return body[:length]

    async def tagged_jobs(self, installation: str, owner: Owner, known: Collection[str]) -> list[TaggedJob]:
        """See Site."""
        tagged = []
        for job in await self._list(installation_word(installation), owner):
            if job in known:
                continue
            try:
                tags = (await self._properties(job, owner, "tags")).get("tags")
            except NotFoundError:
                continue
            tagged.append(TaggedJob(job, session_of([str(tag) for tag in tags] if isinstance(tags, list) else [])))
        return tagged

    async def certificate(self, *, fresh: bool = False) -> str:
        """See Site."""
        if fresh or not self._certificate:
            wanted = {"Accept": "text/plain"}
            try:
                answer = await self._client.call(
                    "fetching the site's certificate", "GET", "/certificate", None, headers=wanted
                )
            except NotFoundError as error:
                raise TransientError(str(error)) from None
            self._certificate = answer.body.decode(errors="replace")
        return self._certificate

    def troubles(self) -> list[str]:
        """See Site."""
        return self._client.troubles()

    async def close(self) -> None:
        """See Site."""
        await self._client.close()

    async def _list(self, tag: str, owner: Owner) -> list[str]:
        """The ids of the owner's jobs with a tag, all pages; what is no id is passed over."""
        jobs: list[str] = []
        for page in range(MOST_PAGES):
            try:
                listed = await self._client.document(
                    "listing jobs", "/jobs", owner, tags=tag, offset=str(page * PAGE), num=str(PAGE)
                )
            except NotFoundError as error:
                raise TransientError(str(error)) from None
            hrefs = listed.get("jobs")
            if not isinstance(hrefs, list):
                raise TransientError(f"{self._client.title}: listing jobs was answered without a list")
            jobs += [job for href in hrefs if (job := documents.job_id(href)) is not None]
            if len(hrefs) < PAGE:
                break
        return list(dict.fromkeys(jobs))

    async def _properties(self, job: str, owner: Owner, fields: str) -> dict[str, Any]:
        return await self._client.document("asking for the job", f"/jobs/{job}", owner, fields=fields)

    async def _details(self, job: str, owner: Owner) -> dict[str, Any] | None:
        """The batch system's view: a comfort for whoever waits, so its lack changes nothing."""
        try:
            return await self._client.document("asking for the queue", f"/jobs/{job}/details", owner)
        except (NotFoundError, TransientError, PermanentError):
            return None

    async def _storage(self, job: str, owner: Owner) -> str:
        if job not in self._storages:
            self._remember_storage(job, await self._properties(job, owner, "_links"))
        return self._storages.get(job, f"{job}-uspace")

    def _remember_storage(self, job: str, properties: dict[str, Any]) -> None:
        storage = documents.storage_id(properties)
        if storage is not None:
            _remember(self._storages, job, storage)

    async def _put_once_prepared(self, path: str, content: bytes, owner: Owner) -> None:
        for seconds in PREPARING_SECONDS:
            try:
                return await self._put_private(path, content, owner)
            except (NotFoundError, SiteFaultError):
                await asyncio.sleep(seconds)
        return await self._put_private(path, content, owner)

    async def _put_private(self, path: str, content: bytes, owner: Owner) -> None:
        binary = {"Content-Type": "application/octet-stream"}
        await self._client.call("staging files", "PUT", path, owner, content=content, headers=binary)
        answer = await self._client.call("protecting files", "PUT", path, owner, document={"permissions": "rw-------"})
        if b'"OK"' not in answer.body.replace(b" ", b""):
            raise TransientError(f"{self._client.title} did not protect a file of the job")

    def _count_refusal(self, session: SessionId, error: SiteFaultError) -> None:
        refusals = self._refusals.get(session, 0) + 1
        _remember(self._refusals, session, refusals)
        if refusals >= REFUSALS_BELIEVED:
            del self._refusals[session]
            raise PermanentError(
                "rejected-by-site",
                error.reason,
                f"Choose other resources; if that does not help, ask the support of {self._client.title}.",
            ) from None


def _believe(error: NotFoundError) -> None:
    """A job is taken for gone only when UNICORE says so; from a gateway 404 may mean that the site is down."""
    if not error.certain:
        raise TransientError(str(error)) from None


def _remember(kept: OrderedDict[Any, Any], key: object, value: object) -> None:
    kept[key] = value
    kept.move_to_end(key)
    if len(kept) > REMEMBERED:
        kept.popitem(last=False)
