"""What tests and checks ask an emulated site besides UNICORE's API: faults, counts, jobs. From this machine only."""

from __future__ import annotations

import ipaddress
from collections import Counter

import msgspec
from aiohttp import web

from emulators.unicore_site.faults import Fault, Faults
from emulators.unicore_site.refusals import RefusedError
from emulators.unicore_site.store import JobStore

PREFIX = "/emulator/"


class Control:
    """The endpoints under `/emulator/`: no real site has them."""

    def __init__(self, store: JobStore, faults: Faults, requests: Counter[str]) -> None:
        self._store = store
        self._faults = faults
        self._requests = requests

    def routes(self) -> list[web.RouteDef]:
        """All routes."""
        return [
            web.get(PREFIX + "jobs", self._jobs),
            web.get(PREFIX + "requests", self._get_requests),
            web.delete(PREFIX + "requests", self._forget_requests),
            web.post(PREFIX + "faults", self._plan),
            web.delete(PREFIX + "faults", self._clear),
        ]

    @staticmethod
    async def admit(request: web.Request) -> None:
        """Raises RefusedError for callers from elsewhere."""
        if request.remote is None or not ipaddress.ip_address(request.remote).is_loopback:
            raise RefusedError(403, "The emulator is controlled from its own machine only.")

    async def _jobs(self, _request: web.Request) -> web.Response:
        jobs = [
            {
                "id": job.id,
                "owner": job.owner,
                "tags": job.tags,
                "status": job.status,
                "place": job.place,
                "pid": job.pid,
                "node": job.node,
            }
            for job in self._store.jobs.values()
        ]
        return web.json_response({"jobs": jobs})

    async def _get_requests(self, _request: web.Request) -> web.Response:
        return web.json_response(dict(self._requests))

    async def _forget_requests(self, _request: web.Request) -> web.Response:
        self._requests.clear()
        return web.Response(status=204)

    async def _plan(self, request: web.Request) -> web.Response:
        try:
            self._faults.planned.append(msgspec.json.decode(await request.read(), type=Fault))
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise RefusedError(400, str(error)) from None
        return web.Response(status=204)

    async def _clear(self, _request: web.Request) -> web.Response:
        self._faults.planned.clear()
        return web.Response(status=204)
