"""The resources of UNICORE's REST API: base, jobs and their storages. Admits nobody itself; see `site`."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from pathlib import Path

from aiohttp import web

from emulators.unicore_site import forwarding, representations, storage
from emulators.unicore_site.configuration import SiteConfiguration
from emulators.unicore_site.descriptions import Description, DescriptionError, read, words_in
from emulators.unicore_site.faults import Faults
from emulators.unicore_site.identity import Doorkeeper, caller_of
from emulators.unicore_site.jobs import Job
from emulators.unicore_site.refusals import RefusedError
from emulators.unicore_site.store import JobStore


class Resources:
    """Answers calls that were admitted. `url` is known once the site listens."""

    def __init__(
        self,
        configuration: SiteConfiguration,
        store: JobStore,
        doorkeeper: Doorkeeper,
        faults: Faults,
        certificate: Callable[[], str],
        server_dn: str,
    ) -> None:
        self.url = ""
        self._configuration = configuration
        self._store = store
        self._doorkeeper = doorkeeper
        self._faults = faults
        self._certificate = certificate
        self._server_dn = server_dn

    def routes(self, base: str) -> list[web.RouteDef]:
        """All routes below the base's path."""
        job, jobs, storages = base + "/jobs/{job}", base + "/jobs", base + "/storages"
        files = storages + "/{storage}/files{path:.*}"
        return [
            web.get(base, self._base),
            web.get(base + "/", self._base),
            web.get(base + "/certificate", self._get_certificate),
            web.get(jobs + "{slash:/?}", self._list_jobs),
            web.post(jobs, self._create_job),
            web.get(job, self._get_job),
            web.put(job, self._put_job),
            web.delete(job, self._delete_job),
            web.get(job + "/details", self._details),
            web.get(job + "/submitted", self._submitted),
            web.post(job + "/actions/{action}", self._act),
            web.get(job + "/forward-port", self._forward),
            web.get(storages + "{slash:/?}", self._list_storages),
            web.get(storages + "/{storage}", self._get_storage),
            web.put(storages + "/{storage}", self._put_storage),
            web.get(files, self._get_file),
            web.put(files, self._put_file),
            web.post(files, self._make_directory),
            web.delete(files, self._delete_file),
        ]

    async def _base(self, request: web.Request) -> web.Response:
        caller = caller_of(request)
        disabled = self._faults.message if self._faults.submission_disabled else ""
        user = self._doorkeeper.users.get(caller.dn)
        document = representations.base(self.url, self._configuration, caller, user, self._server_dn, disabled)
        return web.json_response(representations.chosen(document, request.query.get("fields", "")))

    async def _get_certificate(self, _request: web.Request) -> web.Response:
        return web.Response(text=self._certificate(), content_type="text/plain")

    async def _list_jobs(self, request: web.Request) -> web.Response:
        wanted = set(words_in(request.query.get("tags", "")))
        return self._page(request, "jobs", [job.id for job in self._mine(request) if wanted <= set(job.tags)])

    async def _list_storages(self, request: web.Request) -> web.Response:
        return self._page(request, "storages", [representations.storage_name(job) for job in self._mine(request)])

    def _mine(self, request: web.Request) -> list[Job]:
        mine = [job for job in self._store.jobs.values() if job.owner == caller_of(request).dn]
        return sorted(mine, key=lambda job: -job.submitted_at)

    def _page(self, request: web.Request, name: str, ids: list[str]) -> web.Response:
        try:
            offset = int(request.query.get("offset", "0"))
            number = int(request.query.get("num", str(self._configuration.page_size)))
        except ValueError:
            raise RefusedError(404, "offset and num are numbers.") from None
        if offset < 0 or number < 0:
            raise RefusedError(500, "Error: offset and num must be positive.")
        return web.json_response(representations.page(self.url, name, ids, offset=offset, number=number))

    async def _create_job(self, request: web.Request) -> web.Response:
        if not caller_of(request).known:
            raise RefusedError(403, "")
        try:
            document = await storage.json_object(request)
            description = read(document)
        except (DescriptionError, RefusedError) as error:
            raise RefusedError(500, f"Could not submit job: {error}") from None
        job = self._new(request, description, document)
        self._store.create(job)
        return web.Response(status=201, headers={"Location": f"{self.url}/jobs/{job.id}"})

    def _new(self, request: web.Request, description: Description, document: dict[str, object]) -> Job:
        caller = caller_of(request)
        return Job(
            id=secrets.token_hex(16),
            owner=caller.dn,
            uid=caller.uid,
            group=caller.group,
            description=document,
            tags=description.words,
        )

    def _job(self, request: web.Request) -> Job:
        return self._owned(request, request.match_info["job"])

    def _owned(self, request: web.Request, id_: str) -> Job:
        job = self._store.jobs.get(id_)
        if job is None:
            raise RefusedError(404, "")
        if job.owner != caller_of(request).dn:
            raise RefusedError(403, "")
        return job

    async def _get_job(self, request: web.Request) -> web.Response:
        document = representations.job(self.url, self._job(request))
        return web.json_response(representations.chosen(document, request.query.get("fields", "")))

    async def _put_job(self, request: web.Request) -> web.Response:
        job, said = self._job(request), {}
        for name, value in (await storage.json_object(request)).items():
            if name == "tags" and isinstance(value, str | list):
                job.tags = words_in([str(each) for each in value] if isinstance(value, list) else value)
                said[name] = "OK"
            else:
                said[name] = "Property not found or cannot be modified!"
        self._store.keep(job)
        return web.json_response(said)

    async def _delete_job(self, request: web.Request) -> web.Response:
        await self._store.delete(self._job(request))
        return web.Response(status=204)

    async def _details(self, request: web.Request) -> web.Response:
        return web.json_response(representations.details(self._job(request)))

    async def _submitted(self, request: web.Request) -> web.Response:
        return web.json_response(self._job(request).description)

    async def _act(self, request: web.Request) -> web.Response:
        job = self._job(request)
        match request.match_info["action"]:
            case "start":
                self._store.start(job)
            case "abort":
                self._store.abort_soon(job)
            case "restart":
                self._store.restart(job)
            case _:
                raise RefusedError(404, "")
        return web.Response(status=204)

    async def _forward(self, request: web.Request) -> web.StreamResponse:
        return await forwarding.forward(request, self._job(request))

    def _stored(self, request: web.Request) -> Job:
        name = request.match_info["storage"]
        return self._owned(request, name.removesuffix("-uspace") if name.endswith("-uspace") else "")

    def _root(self, request: web.Request) -> Path:
        return self._store.working_directory(self._stored(request))

    async def _get_storage(self, request: web.Request) -> web.Response:
        document = representations.storage(self.url, self._stored(request))
        return web.json_response(representations.chosen(document, request.query.get("fields", "")))

    async def _put_storage(self, request: web.Request) -> web.Response:
        self._stored(request)
        return web.json_response(dict.fromkeys(await storage.json_object(request), "OK"))

    async def _get_file(self, request: web.Request) -> web.Response:
        return storage.get(request, self._root(request), request.match_info["path"])

    async def _put_file(self, request: web.Request) -> web.Response:
        return await storage.put(request, self._root(request), request.match_info["path"])

    async def _make_directory(self, request: web.Request) -> web.Response:
        return storage.mkdir(self._root(request), request.match_info["path"])

    async def _delete_file(self, request: web.Request) -> web.Response:
        return storage.delete(self._root(request), request.match_info["path"])
