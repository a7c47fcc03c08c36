"""The REST API of an emulated UNICORE site, as UNICORE/X documents it. Its state is in `jobs` and `identity`."""

from __future__ import annotations

import asyncio
import json
import secrets
import ssl
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
from aiohttp import web

from emulators.unicore_site import certificates, storage
from emulators.unicore_site.configuration import SiteConfiguration
from emulators.unicore_site.faults import Fault, Faults
from emulators.unicore_site.identity import CALLER, SESSION, SESSION_HEADER, Doorkeeper, RefusedError, caller_of
from emulators.unicore_site.jobs import Job, JobStore, seconds
from emulators.unicore_site.notifications import Notifier

Handler = Any
DISABLED = "Job submission is disabled: maintenance of the file system until noon."


class UnicoreSite:
    """One emulated site: `async with UnicoreSite(configuration) as site: site.base_url`."""

    def __init__(self, configuration: SiteConfiguration) -> None:
        self.configuration = configuration
        self.folder = Path(configuration.folder).absolute()
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.faults = Faults()
        self.requests: Counter[str] = Counter()
        self.ca_file, certificate, key = certificates.make(self.folder / "tls", configuration.host, configuration.name)
        self._certificate = certificate.read_text()
        self.server_dn = f"CN={configuration.name}"
        self._doorkeeper = Doorkeeper(configuration)
        self._notifier = Notifier(self.server_dn, key.read_bytes())
        self.store = JobStore(configuration, self._changed)
        self._tls: ssl.SSLContext | None = None
        if configuration.tls:
            self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._tls.load_cert_chain(certificate, key)
        self._runner = web.AppRunner(self._app(), access_log=None, handle_signals=False, shutdown_timeout=1.0)
        self._port = configuration.port

    @property
    def origin(self) -> str:
        """Scheme, host and port."""
        return f"{'https' if self._tls else 'http'}://{self.configuration.host}:{self._port}"

    @property
    def base_url(self) -> str:
        """The base of the REST API."""
        return f"{self.origin}/{self.configuration.name}/rest/core"

    async def __aenter__(self) -> UnicoreSite:
        self.store.recover()
        await self._runner.setup()
        site = web.TCPSite(self._runner, self.configuration.host, self._port, ssl_context=self._tls)
        await site.start()
        self._port = int(self._runner.addresses[0][1])
        temporary = self.folder / "ports.json.new"
        temporary.write_text(json.dumps({"base_url": self.base_url, "origin": self.origin, "ca": str(self.ca_file)}))
        temporary.replace(self.folder / "ports.json")
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.store.close()
        await self._notifier.close()
        await self._runner.cleanup()

    def _app(self) -> web.Application:
        app = web.Application(middlewares=[self._gate], client_max_size=64 * 1024 * 1024)
        base = f"/{self.configuration.name}/rest/core"
        job = base + "/jobs/{job}"
        files = base + "/storages/{storage}/files"
        app.add_routes(
            [
                web.get(base, self._base),
                web.get(base + "/", self._base),
                web.get(base + "/certificate", self._get_certificate),
                web.get(base + "/jobs", self._list_jobs),
                web.post(base + "/jobs", self._create_job),
                web.get(job, self._get_job),
                web.put(job, self._put_job),
                web.delete(job, self._delete_job),
                web.get(job + "/details", self._details),
                web.get(job + "/submitted", self._submitted),
                web.post(job + "/actions/{action}", self._act),
                web.get(base + "/storages/{storage}", self._get_storage),
                web.put(base + "/storages/{storage}", self._put_storage),
                web.get(files + "{path:.*}", self._get_file),
                web.put(files + "{path:.*}", self._put_file),
                web.post(files + "{path:.*}", self._make_directory),
                web.delete(files + "{path:.*}", self._delete_file),
                web.get("/emulator/jobs", self._emulator_jobs),
                web.get("/emulator/requests", self._emulator_requests),
                web.post("/emulator/faults", self._emulator_fault),
                web.delete("/emulator/faults", self._emulator_no_faults),
            ]
        )
        return app

    @web.middleware
    async def _gate(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path.startswith("/emulator/"):
            response: web.StreamResponse = await handler(request)
            return response
        resource = request.match_info.route.resource
        self.requests[f"{request.method} {resource.canonical if resource else request.path}"] += 1
        fault = self.faults.take(request.method, request.path)
        if fault is not None and (broken := await self._broken(request, fault)) is not None:
            return broken
        try:
            if not request.path.endswith("/certificate"):
                request[CALLER], session = self._doorkeeper.admit(request.headers)
                request[SESSION] = session
            response = await handler(request)
        except RefusedError as error:
            return _error(error.status, error.message)
        except web.HTTPException as error:
            return _error(error.status, error.reason)
        if fault is not None and fault.kind == "drop-after":
            return self._drop(request)
        if SESSION in request and not response.prepared:
            response.headers[SESSION_HEADER] = request[SESSION]
        return response

    async def _broken(self, request: web.Request, fault: Fault) -> web.StreamResponse | None:
        match fault.kind:
            case "slow":
                await asyncio.sleep(fault.seconds)
            case "hang":
                await asyncio.sleep(3600)
            case "error500":
                return _error(500, "Internal server error")
            case "drop":
                return self._drop(request)
            case "unauthorised":
                return _error(401, "Authentication is required.")
            case "forbidden":
                return _error(403, "Access denied.")
            case "too-many-requests":
                response = _error(429, "Too many requests")
                response.headers["Retry-After"] = str(int(fault.seconds))
                return response
            case "submission-disabled":
                return _error(503, DISABLED)
            case "invalid-json":
                return web.Response(text="<html>proxy error</html>", content_type="application/json")
            case "drop-after" | "lost-notification":
                pass
        return None

    @staticmethod
    def _drop(request: web.Request) -> web.Response:
        if request.transport is not None:
            request.transport.abort()
        return web.Response()

    def lose_sessions(self) -> None:
        """Forgets all security sessions, as a restart of the server does."""
        self._doorkeeper.sessions.clear()

    def _changed(self, job: Job) -> None:
        if not self.faults.take_notification():
            self._notifier.tell(job, f"{self.base_url}/jobs/{job.id}")

    def _job(self, request: web.Request) -> Job:
        job = self.store.jobs.get(request.match_info["job"])
        if job is None or job.owner != caller_of(request).dn:
            raise RefusedError(404, f"No such job: {request.match_info['job']}")
        return job

    async def _base(self, request: web.Request) -> web.Response:
        caller = caller_of(request)
        user = next(each for each in self.configuration.users if each.dn == caller.dn)
        return web.json_response(
            {
                "client": {
                    "dn": caller.dn,
                    "role": {"selected": "user", "availableRoles": ["user"]},
                    "queues": list(self.configuration.queues),
                    "xlogin": {
                        "UID": caller.uid,
                        "availableUIDs": user.uids,
                        "group": caller.group,
                        "availableGroups": user.groups,
                    },
                },
                "server": {
                    "version": "10.1.0-emulated",
                    "credential": {"dn": self.server_dn},
                    "jobSubmission": {"enabled": True},
                },
                "_links": {name: {"href": f"{self.base_url}/{name}"} for name in ("jobs", "storages", "certificate")},
            }
        )

    async def _get_certificate(self, _request: web.Request) -> web.Response:
        return web.Response(text=self._certificate, content_type="text/plain")

    async def _list_jobs(self, request: web.Request) -> web.Response:
        offset, number = (
            int(request.query.get("offset", "0")),
            int(request.query.get("num", str(self.configuration.page_size))),
        )
        tags = {tag for tag in request.query.get("tags", "").split(",") if tag}
        mine = [job for job in self.store.jobs.values() if job.owner == caller_of(request).dn and tags <= set(job.tags)]
        mine.sort(key=lambda job: -job.submitted_at)
        page = mine[offset : offset + number]
        links = {"self": {"href": str(request.url)}}
        if offset + number < len(mine):
            query = f"offset={offset + number}&num={number}" + (f"&tags={','.join(sorted(tags))}" if tags else "")
            links["next"] = {"href": f"{self.base_url}/jobs?{query}"}
        return web.json_response({"jobs": [f"{self.base_url}/jobs/{job.id}" for job in page], "_links": links})

    async def _create_job(self, request: web.Request) -> web.Response:
        try:
            description = await request.json()
        except ValueError:
            raise RefusedError(400, "The job description is not JSON.") from None
        self._check(description)
        caller = caller_of(request)
        job = Job(
            id=secrets.token_hex(16),
            owner=caller.dn,
            uid=caller.uid,
            group=caller.group,
            description=description,
            tags=[str(tag) for tag in description.get("Tags", [])],
        )
        self.store.create(job)
        for each in description.get("Imports", []):
            if str(each.get("From", "")).startswith("inline://"):
                file = storage.resolve(self.store.working_directory(job), str(each["To"]))
                file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                file.touch(mode=0o600)
                file.write_text(str(each.get("Data", "")))
        if str(description.get("haveClientStageIn", "false")).lower() != "true":
            self.store.start(job)
        return web.Response(status=201, headers={"Location": f"{self.base_url}/jobs/{job.id}"})

    def _check(self, description: Any) -> None:
        if not isinstance(description, dict):
            raise RefusedError(400, "The job description is not a JSON object.")
        resources = description.get("Resources", {})
        queue = self.configuration.queues.get(str(resources.get("Queue", next(iter(self.configuration.queues)))))
        if queue is None:
            raise RefusedError(400, f"No such queue: {resources.get('Queue')}")
        try:
            nodes, runtime = int(resources.get("Nodes", 1)), seconds(str(resources.get("Runtime", "60")))
            gpus = int(resources.get("GPUs", resources.get("GPUsPerNode", 0)))
        except ValueError as error:
            raise RefusedError(400, f"Invalid resources: {error}") from None
        if nodes > queue.max_nodes or runtime > queue.max_runtime_seconds or gpus > queue.gpus_per_node * nodes:
            raise RefusedError(400, f"Requested resources exceed the limits of queue {resources.get('Queue')}.")

    async def _get_job(self, request: web.Request) -> web.Response:
        job = self._job(request)
        href = f"{self.base_url}/jobs/{job.id}"
        links = {
            "self": href,
            "details": f"{href}/details",
            "submitted": f"{href}/submitted",
            "workingDirectory": f"{self.base_url}/storages/{job.id}-uspace",
            **{f"action:{action}": f"{href}/actions/{action}" for action in ("start", "abort", "restart")},
        }
        everything: dict[str, Any] = {
            "status": job.status,
            "statusMessage": job.status_message,
            "queue": job.queue,
            "batchSystemID": job.batch_id,
            "name": str(job.description.get("Name", "")),
            "owner": job.owner,
            "tags": job.tags,
            "log": job.log,
            "resourceStatus": "READY",
            "jobType": str(job.description.get("Job type", "BATCH")),
            **({"exitCode": str(job.exit_code)} if job.exit_code is not None else {}),
            "_links": {name: {"href": link} for name, link in links.items()},
        }
        if fields := request.query.get("fields"):
            names = fields.split(",")
            without = {name[1:] for name in names if name.startswith("!")}
            everything = {
                key: value
                for key, value in everything.items()
                if (key not in without if without else key in names or key == "_links")
            }
        return web.json_response(everything)

    async def _put_job(self, request: web.Request) -> web.Response:
        job = self._job(request)
        job.tags = [str(tag) for tag in (await request.json()).get("tags", job.tags)]
        self.store.note(job, "Tags set")
        return web.json_response({"tags": "OK"})

    async def _delete_job(self, request: web.Request) -> web.Response:
        await self.store.delete(self._job(request))
        return web.Response(status=204)

    async def _details(self, request: web.Request) -> web.Response:
        job = self._job(request)
        return web.json_response({"JobId": job.batch_id, "JobState": job.bss_status, "NodeList": job.node})

    async def _submitted(self, request: web.Request) -> web.Response:
        return web.json_response(self._job(request).description)

    async def _act(self, request: web.Request) -> web.Response:
        job = self._job(request)
        match request.match_info["action"]:
            case "start":
                self.store.start(job)
            case "abort":
                await self.store.abort(job)
            case "restart":
                await self.store.restart(job)
            case unknown:
                raise RefusedError(404, f"No such action: {unknown}")
        return web.Response(status=204)

    def _root(self, request: web.Request) -> Path:
        job = self.store.jobs.get(request.match_info["storage"].removesuffix("-uspace"))
        if job is None or job.owner != caller_of(request).dn:
            raise RefusedError(404, f"No such storage: {request.match_info['storage']}")
        return self.store.working_directory(job)

    async def _get_storage(self, request: web.Request) -> web.Response:
        self._root(request)
        href = f"{self.base_url}/storages/{request.match_info['storage']}"
        return web.json_response(
            {"resourceStatus": "READY", "_links": {"self": {"href": href}, "files": {"href": f"{href}/files"}}}
        )

    async def _put_storage(self, request: web.Request) -> web.Response:
        self._root(request)
        return web.json_response(dict.fromkeys(await request.json(), "OK"))

    async def _get_file(self, request: web.Request) -> web.StreamResponse:
        return await storage.get(request, self._root(request), request.match_info["path"])

    async def _put_file(self, request: web.Request) -> web.Response:
        return await storage.put(request, self._root(request), request.match_info["path"])

    async def _make_directory(self, request: web.Request) -> web.Response:
        return await storage.mkdir(self._root(request), request.match_info["path"])

    async def _delete_file(self, request: web.Request) -> web.Response:
        return await storage.delete(self._root(request), request.match_info["path"])

    async def _emulator_jobs(self, _request: web.Request) -> web.Response:
        jobs = [
            {"id": job.id, "owner": job.owner, "tags": job.tags, "status": job.status, "pid": job.pid, "node": job.node}
            for job in self.store.jobs.values()
        ]
        return web.json_response({"jobs": jobs})

    async def _emulator_requests(self, _request: web.Request) -> web.Response:
        return web.json_response(dict(self.requests))

    async def _emulator_fault(self, request: web.Request) -> web.Response:
        try:
            self.faults.planned.append(msgspec.json.decode(await request.read(), type=Fault))
        except msgspec.MsgspecError as error:
            return _error(400, str(error))
        return web.Response(status=204)

    async def _emulator_no_faults(self, _request: web.Request) -> web.Response:
        self.faults.planned.clear()
        return web.Response(status=204)


def _error(status: int, message: str) -> web.Response:
    return web.json_response({"status": status, "errorMessage": message}, status=status)
