"""A Kubernetes cluster over its API server: objects made and removed, pods followed by one watch. Decides nothing."""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
from collections.abc import AsyncGenerator, Mapping
from time import monotonic
from typing import Any, Generic, TypeVar

import msgspec
import structlog

from services._runtime.api_server import ApiServer, NotThereError, RefusedError, Status, TakenError, TooOldError
from services._runtime.errors import PermanentError, TransientError
from services.cloud_launcher.manifests import INSTALLATION_LABEL
from services.cloud_launcher.ports import Changed, Gone, Heard, Listed, Manifest, PodChange, PodName, Seen, Told
from services.cloud_launcher.words import SERVER, Event, Pod, seen, told

_log = structlog.get_logger("farlab.cloud_launcher")

PATHS = {
    "Pod": ("/api/v1", "pods"),
    "Service": ("/api/v1", "services"),
    "Secret": ("/api/v1", "secrets"),
    "PersistentVolumeClaim": ("/api/v1", "persistentvolumeclaims"),
    "NetworkPolicy": ("/apis/networking.k8s.io/v1", "networkpolicies"),
}
MERGE_PATCH = "application/merge-patch+json"
PAGE = 500
WATCH_SECONDS = 240
FIRST_PAUSE_SECONDS = 0.2
LONGEST_PAUSE_SECONDS = 30.0
LEAVING_SECONDS = 1.0
LOG_LINES = 60
LOG_CHARACTERS = 4096
SLICE = 50
"""So many items are taken before others get their turn: a list comes as one piece, and must not stop the loop."""

Item = TypeVar("Item")


class Page(msgspec.Struct, Generic[Item], frozen=True):
    """A page of a list."""

    metadata: Mapping[str, Any]
    items: list[Item] = []


class Line(msgspec.Struct, Generic[Item], frozen=True):
    """A line of a watch."""

    type: str
    object: Item


class Identity(msgspec.Struct, frozen=True):
    """Whose an object is."""

    uid: str = ""
    labels: dict[str, str] = {}
    deletionTimestamp: str | None = None  # noqa: N815 - Kubernetes' own name
    ownerReferences: list[dict[str, Any]] = []  # noqa: N815


class Named(msgspec.Struct, frozen=True):
    """An object, as far as its identity goes."""

    metadata: Identity


class QuotaStatus(msgspec.Struct, frozen=True):
    """What a ResourceQuota allows and what is used of it."""

    hard: dict[str, str] = {}
    used: dict[str, str] = {}


class Quota(msgspec.Struct, frozen=True):
    """A ResourceQuota."""

    status: QuotaStatus = QuotaStatus()


class KubernetesCluster:
    """See `ports.Cluster`. `namespace` is where its pods are; empty: in many, so that all are watched."""

    def __init__(self, api: ApiServer, *, installation: str, namespace: str, silent_seconds: float) -> None:
        self._api = api
        self._selector = f"{INSTALLATION_LABEL}={installation}"
        self._namespace = namespace
        self._silent_seconds = silent_seconds

    async def make(self, manifest: Manifest) -> PodName:
        """See `ports.Cluster`."""
        kind, metadata = manifest["kind"], manifest["metadata"]
        name = PodName(metadata["namespace"], metadata["name"])
        if kind == "PersistentVolumeClaim" and await self._there(manifest):
            return name  # asked first: a full quota refuses to make even what is there already
        base, plural = PATHS[kind]
        operation = f"making the {kind}"
        try:
            body = await self._api.call(
                operation, "POST", f"{base}/namespaces/{name.namespace}/{plural}", document=manifest
            )
        except TakenError:
            uid = await self._adopt(manifest)
        except NotThereError as error:
            raise PermanentError(
                "namespace-missing",
                f"{self._api.title} has no namespace {name.namespace!r}.",
                "Ask the operator of this service to make it, with the rights that docs/operators/kubernetes.md names.",
            ) from error
        except RefusedError as error:
            raise await self._refusal(error, name.namespace) from error
        else:
            uid = msgspec.json.decode(body, type=Named).metadata.uid
        return PodName(name.namespace, name.name, uid)

    async def _there(self, manifest: Manifest) -> bool:
        try:
            await self._api.call("looking for the volume", "GET", _path(manifest))
        except NotThereError:
            return False
        return True

    async def _adopt(self, manifest: Manifest) -> str:
        """The uid of what has the name already, if an earlier try made it."""
        try:
            body = await self._api.call("looking at what is there", "GET", _path(manifest))
        except NotThereError as error:
            raise TransientError("what had the name is just gone", LEAVING_SECONDS) from error
        found = msgspec.json.decode(body, type=Named).metadata
        wanted, name = manifest["metadata"], manifest["metadata"]["name"]
        if any(found.labels.get(key) != value for key, value in wanted["labels"].items()):
            raise PermanentError(
                "name-taken",
                f"{self._api.title} has a {manifest['kind']} {name!r} that is not this session's.",
                "Ask the operator of this service who made it.",
            )
        if found.deletionTimestamp is not None:
            raise TransientError(f"an earlier {manifest['kind']} is still going away", LEAVING_SECONDS)
        owners = {each["uid"] for each in wanted.get("ownerReferences", [])}
        if owners and not owners & {each.get("uid") for each in found.ownerReferences}:
            options = {"preconditions": {"uid": found.uid}}
            # The garbage collector, or another replica, may be faster.
            with contextlib.suppress(NotThereError, TakenError):
                await self._api.call("removing what an earlier pod left", "DELETE", _path(manifest), document=options)
            raise TransientError(f"an earlier pod left a {manifest['kind']}", LEAVING_SECONDS)
        _log.warning("adopted", kind=manifest["kind"], name=name, namespace=wanted["namespace"])
        return found.uid

    async def _refusal(self, error: RefusedError, namespace: str) -> PermanentError:
        if error.status == 403 and "exceeded quota" in error.said:
            used = await self._used(namespace)
            asked = re.search(r"requested: (\S+?),? used:", error.said)
            return PermanentError(
                "quota-exceeded",
                f"The quota of {self._api.title} is used up{f' ({used})' if used else ''}"
                f"{f'; this start asks for {asked[1]}' if asked else ''}.",
                "Stop a server you do not need, choose a smaller flavour, or try again later.",
            )
        if error.status in (400, 422):
            return PermanentError(
                "rejected-by-cloud",
                error.reason,
                "Ask the operator of this service to look at this cloud's settings.",
            )
        return error

    async def _used(self, namespace: str) -> str:
        try:
            return await self.quota(namespace)
        except (TransientError, PermanentError):
            return ""

    async def release(self, pod: PodName) -> None:
        """See `ports.Cluster`."""
        patch = {"metadata": {"uid": pod.uid}, "spec": {"schedulingGates": None}}
        try:
            await self._api.call("opening the pod", "PATCH", _pod_path(pod), document=patch, content_type=MERGE_PATCH)
        except RefusedError:
            # A patch that names another uid is 422 as one that is wrong is: only a look tells them apart.
            if await self.look(pod) is not None:
                raise
            _log.info("not opened: the pod is gone", pod=pod.name)

    async def remove(self, pod: PodName, grace_seconds: int | None = None) -> bool:
        """See `ports.Cluster`."""
        options: dict[str, Any] = {"propagationPolicy": "Background"}
        if grace_seconds is not None:
            options["gracePeriodSeconds"] = grace_seconds
        if pod.uid:
            options["preconditions"] = {"uid": pod.uid}
        try:
            await self._api.call("removing the pod", "DELETE", _pod_path(pod), document=options)
        except (NotThereError, TakenError):
            return False
        return True

    async def look(self, pod: PodName) -> Seen | None:
        """See `ports.Cluster`."""
        try:
            body = await self._api.call("looking at the pod", "GET", _pod_path(pod))
        except NotThereError:
            return None
        found = seen(msgspec.json.decode(body, type=Pod))
        return found if pod.uid in ("", found.pod.uid) else None

    async def log_tail(self, pod: PodName) -> str:
        """See `ports.Cluster`."""
        # A container that waits for its next try has no log of its own yet: the one before it says what went wrong.
        for previous in ("false", "true"):
            params = {"container": SERVER, "tailLines": str(LOG_LINES), "previous": previous}
            try:
                body = await self._api.call("reading the log", "GET", f"{_pod_path(pod)}/log", params=params)
            except (TransientError, PermanentError) as error:
                _log.info("no log tail", pod=pod.name, reason=str(error))
            else:
                return body.decode(errors="replace")[-LOG_CHARACTERS:]
        return ""

    async def quota(self, namespace: str) -> str:
        """See `ports.Cluster`."""
        body = await self._api.call("reading quotas", "GET", f"/api/v1/namespaces/{namespace}/resourcequotas")
        shown = [
            f"{resource} {each.status.used.get(resource, '0')} of {hard}"
            for each in msgspec.json.decode(body, type=Page[Quota]).items
            for resource, hard in sorted(each.status.hard.items())
        ]
        return ", ".join(shown)

    async def close(self) -> None:
        """See `ports.Cluster`."""
        await self._api.close()

    async def pods(self) -> AsyncGenerator[PodChange, None]:
        """See `ports.Cluster`. Begins anew where the history is gone (410), else where it was."""
        version, pause = "", FIRST_PAUSE_SECONDS
        while True:
            begun = monotonic()
            try:
                if not version:
                    uids: set[str] = set()
                    async for page, told_version in self._pages():
                        for number, raw in enumerate(page):
                            if (pod := _decoded(raw, _POD)) is not None:
                                uids.add(pod.metadata.uid)
                                yield Changed(seen(pod))
                            if number % SLICE == 0:
                                await asyncio.sleep(0)
                        version = told_version
                    yield Listed(frozenset(uids))
                async for kind, pod in self._changes("pods", {"labelSelector": self._selector}, version, _POD_LINE):
                    pause = FIRST_PAUSE_SECONDS
                    version = pod.metadata.resource_version or version
                    if kind == "DELETED":
                        yield Gone(seen(pod))
                    else:
                        yield Heard() if kind == "BOOKMARK" else Changed(seen(pod))
            except TooOldError:
                _log.info("the watch begins anew: its history is gone", cloud=self._api.title)
                version = ""
            except (TransientError, PermanentError) as error:
                _log.warning("the watch broke", cloud=self._api.title, reason=error.reason)
            if monotonic() - begun < LONGEST_PAUSE_SECONDS:
                await asyncio.sleep(pause * random.uniform(0.75, 1.0))  # noqa: S311 - jitter, not a secret
                pause = min(pause * 2, LONGEST_PAUSE_SECONDS)

    async def words(self) -> AsyncGenerator[Told, None]:
        """See `ports.Cluster`. What was said while the watch was away is not said again."""
        selection, pause = {"fieldSelector": "involvedObject.kind=Pod"}, FIRST_PAUSE_SECONDS
        while True:
            try:
                page = await self._api.call("listing events", "GET", self._scope("events"), params={"limit": "1"})
                version = str(msgspec.json.decode(page, type=Page[msgspec.Raw]).metadata.get("resourceVersion", ""))
                async for kind, event in self._changes("events", selection, version, _EVENT_LINE):
                    pause = FIRST_PAUSE_SECONDS
                    if kind in ("ADDED", "MODIFIED") and (said := told(event)) is not None:
                        yield said
            except (TransientError, PermanentError) as error:
                _log.info("no events", cloud=self._api.title, reason=error.reason)
            await asyncio.sleep(pause * random.uniform(0.75, 1.0))  # noqa: S311 - jitter, not a secret
            pause = min(pause * 2, LONGEST_PAUSE_SECONDS)

    async def _pages(self) -> AsyncGenerator[tuple[list[msgspec.Raw], str], None]:
        params = {"labelSelector": self._selector, "limit": str(PAGE)}
        while True:
            body = await self._api.call("listing pods", "GET", self._scope("pods"), params=params)
            page = msgspec.json.decode(body, type=Page[msgspec.Raw])
            yield page.items, str(page.metadata.get("resourceVersion", ""))
            if not (token := page.metadata.get("continue")):
                return
            params["continue"] = str(token)

    async def _changes(
        self, plural: str, selection: Mapping[str, str], version: str, decoder: msgspec.json.Decoder[Line[Item]]
    ) -> AsyncGenerator[tuple[str, Item], None]:
        """The lines of one watch until it ends. Raises TooOldError where its history is gone."""
        params = {
            **selection,
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": version,
            "timeoutSeconds": str(int(WATCH_SECONDS * random.uniform(1.0, 1.2))),  # noqa: S311 - jitter, not a secret
        }
        operation = f"watching {plural}"
        async with self._api.lines(operation, self._scope(plural), params, self._silent_seconds) as lines:
            number = 0
            async for line in lines:
                if not line.strip():
                    continue
                if (found := _decoded(line, decoder)) is None:
                    continue
                if found.type == "ERROR":
                    raise self._ended(operation, int(getattr(found.object, "code", 0)))
                yield found.type, found.object
                number += 1
                if number % SLICE == 0:
                    await asyncio.sleep(0)

    def _ended(self, operation: str, code: int) -> Exception:
        error = TransientError(f"{self._api.title}: {operation}: ended with {code}")
        return TooOldError(self._api.title, operation, code, Status()) if code == 410 else error

    def _scope(self, plural: str) -> str:
        where = f"namespaces/{self._namespace}/" if self._namespace else ""
        return f"/api/v1/{where}{plural}"


_POD = msgspec.json.Decoder(Pod)
_POD_LINE = msgspec.json.Decoder(Line[Pod])
_EVENT_LINE = msgspec.json.Decoder(Line[Event])


def _decoded(content: bytes | msgspec.Raw, decoder: msgspec.json.Decoder[Item]) -> Item | None:
    """What is told, or None where it is nothing we understand: one odd object must not stop the watch of all."""
    try:
        return decoder.decode(content)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        _log.warning("not understood", reason=str(error))
        return None


def _pod_path(pod: PodName) -> str:
    return f"/api/v1/namespaces/{pod.namespace}/pods/{pod.name}"


def _path(manifest: Manifest) -> str:
    base, plural = PATHS[manifest["kind"]]
    metadata = manifest["metadata"]
    return f"{base}/namespaces/{metadata['namespace']}/{plural}/{metadata['name']}"
