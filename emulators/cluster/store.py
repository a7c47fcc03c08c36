"""The objects of the cluster, their versions, and who owns whom. It speaks no HTTP and runs no pod.

Stored objects are never changed in place: each write stores a new one, so that a watch may hold an older version.
"""

from __future__ import annotations

import asyncio
import copy
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from fractions import Fraction

from emulators.cluster.kinds import KINDS, Kind, Object
from emulators.cluster.quantities import counted, quantity, written
from emulators.cluster.refusals import already_exists, conflict, expired, forbidden, not_found
from emulators.cluster.validation import check

Key = tuple[str, str, str]
STALE = "the object has been modified; please apply your changes to the latest version and try again"


@dataclass(frozen=True)
class Change:
    """One write, in the order of versions; `before` is None for a new object."""

    version: int
    type: str
    plural: str
    object: Object
    before: Object | None


def now() -> str:
    """The time as objects tell it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Store:
    """All objects. `on_change` hears of every change after it is stored."""

    def __init__(self, *, history: int, on_change: Callable[[Change], None]) -> None:
        self.version = 1
        self.compacted = 0
        self.changed = asyncio.Event()
        self._kept = history
        self._history: deque[Change] = deque()
        self._objects: dict[str, dict[tuple[str, str], Object]] = {plural: {} for plural in KINDS}
        self._owned: dict[str, set[Key]] = {}
        self._uids: set[str] = set()
        self._on_change = on_change

    def get(self, plural: str, namespace: str, name: str) -> Object:
        """The newest version. Raises RefusedError (404)."""
        if (found := self._objects[plural].get((namespace, name))) is None:
            raise not_found(plural, name)
        return found

    def find(self, plural: str, namespace: str, name: str) -> Object | None:
        """The newest version, or None."""
        return self._objects[plural].get((namespace, name))

    def every(self, plural: str) -> list[Object]:
        """All objects of a kind, by namespace and name."""
        return [found for _, found in sorted(self._objects[plural].items())]

    def since(self, version: int) -> list[Change]:
        """The changes after a version, in order. Raises RefusedError (410) when they are no longer known."""
        if version < self.compacted:
            raise expired(f"too old resource version: {version} ({self.compacted})")
        newer: list[Change] = []
        for change in reversed(self._history):
            if change.version <= version:
                break
            newer.append(change)
        return newer[::-1]

    def compact(self) -> None:
        """Forgets the history, as etcd does every five minutes."""
        self._history.clear()
        self.compacted = self.version

    def create(self, kind: Kind, namespace: str, given: Object) -> Object:
        """Stores a new object. Raises RefusedError (403, 404, 409, 422)."""
        new = copy.deepcopy(given)
        metadata = new.setdefault("metadata", {})
        metadata.pop("resourceVersion", None)
        if not metadata.get("name") and metadata.get("generateName"):
            metadata["name"] = f"{metadata['generateName']}{uuid.uuid4().hex[:5]}"
        if kind.namespaced:
            metadata["namespace"] = namespace
        check(kind, new)
        if kind.namespaced:
            home = self.get("namespaces", "", namespace)
            if "deletionTimestamp" in home["metadata"]:
                why = f"unable to create new content in namespace {namespace} because it is being terminated"
                raise forbidden(kind.plural, metadata["name"], why)
        if (namespace, metadata["name"]) in self._objects[kind.plural]:
            raise already_exists(kind.plural, metadata["name"])
        self._admit(kind, namespace, new)
        metadata |= {"uid": str(uuid.uuid4()), "creationTimestamp": now()}
        if kind.plural not in ("secrets", "configmaps", "events"):
            metadata["generation"] = 1
        new = {"kind": kind.kind, "apiVersion": kind.api_version, **new}
        stored = self._put("ADDED", kind, new, None)
        self._recount(kind, namespace)
        if any(owner["uid"] not in self._uids for owner in metadata.get("ownerReferences") or []):
            asyncio.get_running_loop().call_soon(self._collect_orphan, (kind.plural, namespace, metadata["name"]))
        return stored

    def replace(self, kind: Kind, given: Object, *, status: bool = False) -> Object:
        """Stores a newer version: all but the status, or only it. Raises RefusedError (404, 409, 422)."""
        metadata = given["metadata"]
        namespace, name = metadata.get("namespace", ""), metadata["name"]
        before = self.get(kind.plural, namespace, name)
        if metadata.get("resourceVersion") not in (None, "", before["metadata"]["resourceVersion"]):
            raise conflict(kind.plural, name, STALE)
        if metadata.get("uid") not in (None, "", before["metadata"]["uid"]):
            held = before["metadata"]["uid"]
            raise conflict(
                kind.plural,
                name,
                f"Precondition failed: UID in precondition: {metadata['uid']}, UID in object meta: {held}",
            )
        if status:
            new = {**before, "status": copy.deepcopy(given.get("status", {}))}
        else:
            new = copy.deepcopy(given)
            kept = (
                "uid",
                "creationTimestamp",
                "generation",
                "deletionTimestamp",
                "deletionGracePeriodSeconds",
                "resourceVersion",
            )
            new["metadata"] |= {key: before["metadata"][key] for key in kept if key in before["metadata"]}
            if kind.plural in ("pods", "services", "persistentvolumeclaims", "resourcequotas", "namespaces"):
                new["status"] = before.get("status", {})
            check(kind, new, before)
            if "generation" in new["metadata"] and new.get("spec") != before.get("spec"):
                new["metadata"]["generation"] += 1
        if new == before:
            return before
        stored = self._put("MODIFIED", kind, new, before)
        going = "deletionTimestamp" in stored["metadata"] and not stored["metadata"].get("finalizers")
        if going and (kind.plural != "pods" or before["metadata"].get("finalizers")):
            self.remove(kind, namespace, name)
        if (kind.plural == "pods" and status) or kind.plural == "resourcequotas":
            self._recount(kind, namespace)
        return stored

    def delete(
        self, kind: Kind, namespace: str, name: str, *, grace_seconds: int | None, orphan: bool = False
    ) -> Object:
        """Begins or completes a deletion; the object as it was last. Raises RefusedError (404)."""
        found = self.get(kind.plural, namespace, name)
        metadata = found["metadata"]
        if orphan:
            self._disown(metadata["uid"])
        grace = 0
        if kind.plural == "pods" and found.get("spec", {}).get("nodeName"):
            default = found["spec"].get("terminationGracePeriodSeconds", 30)
            grace = default if grace_seconds is None else grace_seconds
            if found.get("status", {}).get("phase") in ("Succeeded", "Failed"):
                grace = 0
        if kind.plural == "namespaces":
            found = self._terminate_namespace(found)
            metadata = found["metadata"]
        held = bool(metadata.get("finalizers")) or grace > 0
        if held:
            if "deletionTimestamp" in metadata and metadata.get("deletionGracePeriodSeconds", 0) <= grace:
                return found
            marks = {"deletionTimestamp": now(), "deletionGracePeriodSeconds": grace}
            return self._put("MODIFIED", kind, {**found, "metadata": {**metadata, **marks}}, found)
        return self.remove(kind, namespace, name)

    def remove(self, kind: Kind, namespace: str, name: str) -> Object:
        """Takes an object away and then what it owned."""
        found = self.get(kind.plural, namespace, name)
        del self._objects[kind.plural][namespace, name]
        gone = self._record("DELETED", kind, found, found)
        self._uids.discard(found["metadata"]["uid"])
        key = (kind.plural, namespace, name)
        for owner in found["metadata"].get("ownerReferences") or []:
            self._owned.get(owner["uid"], set()).discard(key)
        for dependent in self._owned.pop(found["metadata"]["uid"], set()):
            asyncio.get_running_loop().call_soon(self._collect_orphan, dependent)
        self._recount(kind, namespace)
        return gone

    def _put(self, type_: str, kind: Kind, new: Object, before: Object | None) -> Object:
        stored = self._record(type_, kind, new, before)
        metadata = stored["metadata"]
        key = (metadata.get("namespace", ""), metadata["name"])
        self._objects[kind.plural][key] = stored
        self._uids.add(metadata["uid"])
        for owner in metadata.get("ownerReferences") or []:
            self._owned.setdefault(owner["uid"], set()).add((kind.plural, *key))
        self._on_change(self._history[-1])
        return self._objects[kind.plural].get(key, stored)

    def _record(self, type_: str, kind: Kind, found: Object, before: Object | None) -> Object:
        self.version += 1
        stored = {**found, "metadata": {**found["metadata"], "resourceVersion": str(self.version)}}
        self._history.append(Change(self.version, type_, kind.plural, stored, before))
        while len(self._history) > self._kept:
            self.compacted = self._history.popleft().version
        self.changed.set()
        self.changed = asyncio.Event()
        if type_ == "DELETED":
            self._on_change(self._history[-1])
        return stored

    def _collect_orphan(self, key: Key) -> None:
        """Deletes an object whose owners are all gone."""
        plural, namespace, name = key
        found = self.find(plural, namespace, name)
        owners = found["metadata"].get("ownerReferences") or [] if found else []
        if owners and not any(owner["uid"] in self._uids for owner in owners):
            self.delete(KINDS[plural], namespace, name, grace_seconds=None)

    def _disown(self, uid: str) -> None:
        for plural, namespace, name in self._owned.pop(uid, set()):
            found = self.get(plural, namespace, name)
            owners = [owner for owner in found["metadata"]["ownerReferences"] if owner["uid"] != uid]
            kept = {**found, "metadata": {**found["metadata"], "ownerReferences": owners}}
            self._put("MODIFIED", KINDS[plural], kept, found)

    def _terminate_namespace(self, found: Object) -> Object:
        """Everything in it goes first; the finalizer holds it until then."""
        name = found["metadata"]["name"]
        if "deletionTimestamp" not in found["metadata"]:
            marks = {"deletionTimestamp": now(), "finalizers": ["kubernetes"]}
            going = {**found, "metadata": {**found["metadata"], **marks}, "status": {"phase": "Terminating"}}
            found = self._put("MODIFIED", KINDS["namespaces"], going, found)
        for kind, inside in list(self._inside(name)):
            self.delete(kind, name, inside, grace_seconds=None)
        self.empty_namespace(name)
        return self.find("namespaces", "", name) or found

    def empty_namespace(self, name: str) -> None:
        """Lets a namespace that is being deleted go once nothing is in it."""
        found = self.find("namespaces", "", name)
        if found and "deletionTimestamp" in found["metadata"] and not any(self._inside(name)):
            self._objects["namespaces"]["", name] = {**found, "metadata": {**found["metadata"], "finalizers": []}}
            self.remove(KINDS["namespaces"], "", name)

    def _inside(self, namespace: str) -> Iterator[tuple[Kind, str]]:
        for plural, objects in self._objects.items():
            yield from ((KINDS[plural], name) for home, name in list(objects) if home == namespace)

    def _admit(self, kind: Kind, namespace: str, new: Object) -> None:
        """Quotas. Raises RefusedError (403)."""
        name, uses = new["metadata"]["name"], counted(kind.plural, new)
        for quota in self.every("resourcequotas"):
            if quota["metadata"]["namespace"] != namespace:
                continue
            hard = {key: quantity(value) for key, value in quota["spec"].get("hard", {}).items()}
            used = self._used(namespace, set(hard))
            if kind.plural == "pods":
                compute = ("cpu", "memory", "requests.cpu", "requests.memory", "limits.cpu", "limits.memory")
                if missing := [key for key in compute if key in hard and key not in uses]:
                    why = f"failed quota: {quota['metadata']['name']}: must specify {','.join(missing)}"
                    raise forbidden(kind.plural, name, why)
            over = [key for key in sorted(hard) if key in uses and used[key] + uses[key] > hard[key]]
            if over:
                parts = [
                    ",".join(f"{key}={written(values[key])}" for key in over)
                    for values in ({key: Fraction(uses[key]) for key in over}, used, hard)
                ]
                raise forbidden(
                    kind.plural,
                    name,
                    f"exceeded quota: {quota['metadata']['name']}, requested: {parts[0]}, used: {parts[1]}, "
                    f"limited: {parts[2]}",
                )

    def _used(self, namespace: str, names: set[str]) -> dict[str, Fraction]:
        used = dict.fromkeys(names, Fraction(0))
        for plural, objects in self._objects.items():
            for (home, _), found in objects.items():
                if home == namespace:
                    for name, value in counted(plural, found).items():
                        if name in used:
                            used[name] += value
        return used

    def _recount(self, kind: Kind, namespace: str) -> None:
        if kind.plural == "events" or not kind.namespaced:
            return
        for (home, _), quota in list(self._objects["resourcequotas"].items()):
            hard = quota["spec"].get("hard", {})
            if home == namespace:
                used = {name: written(value) for name, value in self._used(namespace, set(hard)).items()}
                status = {"hard": hard, "used": used}
                if quota.get("status") != status:
                    self._put("MODIFIED", KINDS["resourcequotas"], {**quota, "status": status}, quota)
        self.empty_namespace(namespace)
