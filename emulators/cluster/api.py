"""The API server's answers: who may, then what. It listens nowhere and runs no pod."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
from collections import Counter, deque
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
from aiohttp import web

from emulators.cluster import patches
from emulators.cluster.configuration import User
from emulators.cluster.kinds import Object, Selection
from emulators.cluster.nodes import Nodes
from emulators.cluster.pod import RunningPod
from emulators.cluster.port_forward import forward
from emulators.cluster.refusals import RefusedError, conflict, forbidden, invalid
from emulators.cluster.requests import Target, target, verb
from emulators.cluster.store import Store
from emulators.cluster.watches import Watches

FOLLOW_SECONDS = 0.05
VERSION = {"major": "1", "minor": "34", "gitVersion": "v1.34.0-emulated", "platform": "emulated"}


class Api:
    """All routes of the emulated API server. `requests` counts them by verb and resource."""

    def __init__(self, store: Store, watches: Watches, nodes: Nodes, users: list[User]) -> None:
        self._store = store
        self._watches = watches
        self._nodes = nodes
        self._users = users
        self.requests: Counter[str] = Counter()
        self.broken: deque[int] = deque()
        """Codes with which the next requests are refused, before anything else is looked at."""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """The answer to any request; a refusal is a `Status`."""
        try:
            return await self._answer(request)
        except RefusedError as refused:
            return _json(refused.status, refused.code)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        if self.broken:
            raise RefusedError(self.broken.popleft(), "the emulator was told to refuse this", reason="InternalError")
        user = self._user(request)
        if request.path in ("/version", "/version/"):
            return _json(VERSION)
        if request.path in ("/readyz", "/livez", "/healthz"):
            return web.Response(text="ok")
        what = target(request.path)
        watching = request.query.get("watch", "").lower() in ("true", "1")
        wanted = verb(request.method, what, watch=watching)
        self.requests[f"{wanted} {what.resource}"] += 1
        self._allow(user, wanted, what)
        if what.part == "log":
            return await self._log(request, what)
        if what.part == "portforward":
            return await forward(request, self._running(what).address)
        match wanted:
            case "get":
                return _json(self._store.get(what.kind.plural, what.namespace, what.name))
            case "list":
                selection = Selection.of(what.kind, what.namespace, request.query)
                return _json(self._watches.page(what.kind, selection, request.query))
            case "watch":
                selection = Selection.of(what.kind, what.namespace, request.query)
                return await self._watches.watch(request, what.kind, selection)
            case "create":
                given = _checked(what, await _body(request))
                return _json(self._store.create(what.kind, what.namespace, given), 201)
            case "update":
                given = _checked(what, await _body(request))
                return _json(self._store.replace(what.kind, given, status=what.part == "status"))
            case "patch":
                return _json(self._patch(request, what, await _body(request)))
            case "delete":
                return self._delete(what, await _options(request))
            case "deletecollection":
                return self._delete_all(request, what, await _options(request))
            case _:
                raise RefusedError(405, "the server does not allow this method on the requested resource")

    def _user(self, request: web.Request) -> User:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme == "Bearer":
            for user in self._users:
                if hmac.compare_digest(user.token.encode(), token.strip().encode()):
                    return user
        raise RefusedError(401, "Unauthorized")

    def _allow(self, user: User, wanted: str, what: Target) -> None:
        for rule in user.rules:
            named = what.resource in rule.resources or "*" in rule.resources
            home = not what.kind.namespaced or what.namespace in rule.namespaces or "*" in rule.namespaces
            if named and home and (wanted in rule.verbs or "*" in rule.verbs):
                return
        where = f'in the namespace "{what.namespace}"' if what.namespace else "at the cluster scope"
        raise forbidden(
            what.resource,
            what.name,
            f'User "{user.name}" cannot {wanted} resource "{what.resource}" in API group "{what.kind.group}" {where}',
        )

    def _patch(self, request: web.Request, what: Target, patch: Any) -> Object:
        found = self._store.get(what.kind.plural, what.namespace, what.name)
        changed = patches.patched(found, request.content_type, patch)
        if (uid := changed["metadata"].get("uid")) != found["metadata"]["uid"]:
            cause = ("metadata.uid", "FieldValueInvalid", f'Invalid value: "{uid}": field is immutable')
            raise invalid(what.kind.kind, what.name, [cause])
        return self._store.replace(what.kind, _checked(what, changed), status=what.part == "status")

    def _delete(self, what: Target, options: dict[str, Any]) -> web.Response:
        metadata = self._store.get(what.kind.plural, what.namespace, what.name)["metadata"]
        for key, value in (options.get("preconditions") or {}).items():
            if value is not None and metadata[key] != value:
                why = f"the {key} in the precondition ({value}) does not match the {key} in record ({metadata[key]})"
                raise conflict(what.kind.plural, what.name, f"Precondition failed: {why}")
        gone = self._store.delete(
            what.kind,
            what.namespace,
            what.name,
            grace_seconds=options.get("gracePeriodSeconds"),
            orphan=options.get("propagationPolicy") == "Orphan",
        )
        if what.kind.plural in ("pods", "namespaces") or gone["metadata"].get("finalizers"):
            return _json(gone)
        details = {"name": what.name, "kind": what.kind.plural, "uid": metadata["uid"]}
        return _json({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details})

    def _delete_all(self, request: web.Request, what: Target, options: dict[str, Any]) -> web.Response:
        page = self._watches.page(what.kind, Selection.of(what.kind, what.namespace, request.query), {})
        for found in page["items"]:
            metadata = found["metadata"]
            grace = options.get("gracePeriodSeconds")
            self._store.delete(what.kind, metadata.get("namespace", ""), metadata["name"], grace_seconds=grace)
        return _json(page)

    def _running(self, what: Target) -> RunningPod:
        pod = self._store.get("pods", what.namespace, what.name)
        running = self._nodes.pods.get(pod["metadata"]["uid"])
        if running is None or running.silent or pod.get("status", {}).get("phase") != "Running":
            phase = pod.get("status", {}).get("phase", "Pending")
            raise RefusedError(400, f"unable to forward port because pod is not running. Current status={phase}")
        return running

    async def _log(self, request: web.Request, what: Target) -> web.StreamResponse:
        pod = self._store.get("pods", what.namespace, what.name)
        names = [container["name"] for container in pod["spec"]["containers"]]
        wanted = request.query.get("container") or (names[0] if len(names) == 1 else "")
        if wanted not in names:
            raise RefusedError(400, f"a container name must be specified for pod {what.name}, choose one of: {names}")
        running = self._nodes.pods.get(pod["metadata"]["uid"])
        previous = request.query.get("previous", "").lower() == "true"
        file = running.log_file(wanted, previous=previous) if running else None
        if running is None or file is None:
            state = "previous terminated" if previous else "is waiting to start: ContainerCreating"
            raise RefusedError(400, f'container "{wanted}" in pod "{what.name}" {state}')
        if running.silent:
            raise RefusedError(500, f"Get logs of {what.name}: dial tcp: i/o timeout")
        sent, data = _tail(file, request.query)
        if request.query.get("follow", "").lower() != "true":
            return web.Response(body=data, content_type="text/plain")
        response = web.StreamResponse(headers={"Content-Type": "text/plain"})
        await response.prepare(request)
        await response.write(data)
        async for more in _growth(file, running, wanted, sent):
            await response.write(more)
        await response.write_eof()
        return response


async def _growth(file: Path, running: RunningPod, container: str, sent: int) -> AsyncIterator[bytes]:
    place = sent
    while True:
        grows = running.logs(container) and running.log_file(container) == file
        with file.open("rb") as opened:
            opened.seek(place)
            more = opened.read()
        place += len(more)
        if more:
            yield more
        elif not grows:
            return
        await asyncio.sleep(FOLLOW_SECONDS)


def _tail(file: Path, query: Any) -> tuple[int, bytes]:
    """How much of the log was read, and what of it is asked for."""
    data = file.read_bytes()
    size = len(data)
    if query.get("tailLines", "").isdigit():
        count = int(query["tailLines"])
        data = b"".join(data.splitlines(keepends=True)[-count:]) if count else b""
    return size, data[: int(query["limitBytes"])] if query.get("limitBytes", "").isdigit() else data


async def _body(request: web.Request) -> Any:
    try:
        return msgspec.json.decode(await request.read())
    except msgspec.MsgspecError as error:
        raise RefusedError(400, f"the object provided is unrecognized: {error}") from None


async def _options(request: web.Request) -> dict[str, Any]:
    options: dict[str, Any] = await _body(request) if await request.read() else {}
    for name in ("gracePeriodSeconds", "propagationPolicy"):
        if name in request.query:
            value = request.query[name]
            options[name] = int(value) if value.isdigit() else value
    return options


def _checked(what: Target, given: Any) -> Object:
    """An object that may stand at this path. Raises RefusedError (400)."""
    if not isinstance(given, dict) or not isinstance(given.get("metadata", {}), dict):
        raise RefusedError(400, "the object provided is unrecognized")
    for field, value in (("kind", what.kind.kind), ("apiVersion", what.kind.api_version)):
        if given.setdefault(field, value) != value:
            raise RefusedError(400, f"{given[field]!r} in the body does not match the resource's {field} {value!r}")
    metadata = given.setdefault("metadata", {})
    for field, value in (("namespace", what.namespace), ("name", what.name)):
        if value and metadata.setdefault(field, value) != value:
            told = f"the {field} of the provided object does not match the {field} sent on the request"
            raise RefusedError(400, told)
    if what.kind.plural == "secrets":
        return _secret(given)
    if what.kind.plural == "pods":
        given.get("spec", {}).setdefault("restartPolicy", "Always")
        given.get("spec", {}).setdefault("terminationGracePeriodSeconds", 30)
    return given


def _secret(given: Object) -> Object:
    """`stringData` is written into `data`."""
    plain = given.pop("stringData", None) or {}
    data = {**(given.get("data") or {})}
    for key, value in plain.items():
        data[key] = base64.b64encode(value.encode()).decode()
    try:
        for value in data.values():
            base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError, TypeError):
        raise RefusedError(400, "Secret in version v1 cannot be handled as a Secret: illegal base64 data") from None
    return {**given, "data": data, "type": given.get("type", "Opaque")}


def _json(found: Object, code: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(found), status=code, content_type="application/json")
