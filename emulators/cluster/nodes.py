"""The nodes: places pods, keeps their lives, tells events. It answers no request."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import uuid
from collections import Counter
from collections.abc import Coroutine
from fractions import Fraction
from pathlib import Path
from typing import Any

from emulators.cluster.configuration import ClusterConfiguration, Image, Node
from emulators.cluster.kinds import KINDS, Object
from emulators.cluster.pod import PODS, RunningPod, mark
from emulators.cluster.quantities import asked, quantity
from emulators.cluster.refusals import RefusedError
from emulators.cluster.store import Change, Store, now
from emulators.cluster.volumes import PodFiles


class Nodes:
    """All nodes of the cluster and what runs on them."""

    def __init__(self, configuration: ClusterConfiguration, folder: Path) -> None:
        self._configuration = configuration
        self._folder = folder
        self._store: Store
        self.pods: dict[str, RunningPod] = {}
        self._waiting: dict[str, Object] = {}
        self._lost: set[str] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        network = configuration.pod_network or f"127.{random.randint(16, 250)}"
        parts = range(1, 255)
        self._addresses = (f"{network}.{third}.{fourth}" for third, fourth in itertools.product(parts, parts))
        self._events: dict[tuple[str, str, str], str] = {}

    def begin(self, store: Store) -> None:
        """Makes the nodes' objects."""
        self._store = store
        for node in self._configuration.nodes:
            status: dict[str, Any] = {"capacity": node.capacity, "allocatable": node.capacity}
            mark(status, "Ready", True, "KubeletReady", "kubelet is posting ready status")
            metadata = {"name": node.name, "labels": {"kubernetes.io/hostname": node.name, **node.labels}}
            store.create(KINDS["nodes"], "", {"metadata": metadata, "status": status})

    async def close(self) -> None:
        """Ends every process."""
        await asyncio.gather(*(pod.end(1.0, silent=True) for pod in list(self.pods.values())))
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def on_change(self, change: Change) -> None:
        """Reacts to what was written."""
        if change.plural != "pods":
            return
        pod, uid = change.object, change.object["metadata"]["uid"]
        if change.type == "ADDED":
            self._waiting[uid] = pod
            self._spawn(self._place_waiting())
        elif change.type == "DELETED":
            self._waiting.pop(uid, None)
            if running := self.pods.get(uid):
                self._spawn(self._bury(running, 0.0))
            elif self._waiting:
                self._spawn(self._place_waiting())
        elif "deletionTimestamp" in pod["metadata"] and uid in self.pods:
            before = (change.before or {}).get("metadata", {})
            if pod["metadata"]["deletionGracePeriodSeconds"] != before.get("deletionGracePeriodSeconds"):
                self._spawn(self._terminate(pod))
        elif "deletionTimestamp" in pod["metadata"] and not pod["metadata"].get("finalizers"):
            self._spawn(self._gone(pod))
        elif uid in self._waiting and _gated(change.before) and not _gated(pod):
            self._waiting[uid] = pod
            self._spawn(self._place_waiting())

    async def kill(self, namespace: str, name: str, container: str, reason: str = "OOMKilled") -> None:
        """Kills a container's process."""
        await self._of(namespace, name).kill(container, reason)

    async def evict(self, namespace: str, name: str, message: str = "") -> None:
        """Has the node evict a pod."""
        running = self._of(namespace, name)
        why = message or "The node was low on resource: memory. Threshold quantity: 100Mi, available: 52Mi."
        self.tell(self._store.get("pods", namespace, name), "Evicted", why, warning=True)
        await running.end(1.0, verdict=("Evicted", why))

    async def lose(self, node: str) -> None:
        """The node falls silent: its processes are gone and nobody says so; its pods are marked in the end."""
        self._lost.add(node)
        lost = [pod for pod in self.pods.values() if pod.node == node]
        await asyncio.gather(*(pod.end(0.0, silent=True) for pod in lost))
        found = self._store.get("nodes", "", node)
        status = {**found["status"], "conditions": [dict(each) for each in found["status"]["conditions"]]}
        mark(status, "Ready", False, "NodeStatusUnknown", "Kubelet stopped posting node status.")
        status["conditions"][-1]["status"] = "Unknown"
        self._store.replace(KINDS["nodes"], {"metadata": {"name": node}, "status": status}, status=True)
        for pod in lost:
            self._spawn(self._forsake(pod))

    async def regain(self, node: str) -> None:
        """The node comes back without the pods it had: those marked for deletion go."""
        self._lost.discard(node)
        found = self._store.get("nodes", "", node)
        status = {**found["status"], "conditions": [dict(each) for each in found["status"]["conditions"]]}
        mark(status, "Ready", True, "KubeletReady", "kubelet is posting ready status")
        self._store.replace(KINDS["nodes"], {"metadata": {"name": node}, "status": status}, status=True)
        for running in [pod for pod in self.pods.values() if pod.node == node]:
            pod = self._store.find("pods", running.namespace, running.name)
            if pod is not None and "deletionTimestamp" in pod["metadata"]:
                await self._gone(pod)

    async def _forsake(self, running: RunningPod) -> None:
        pod = self._store.get("pods", running.namespace, running.name)
        status = {**pod["status"], "conditions": [dict(each) for each in pod["status"]["conditions"]]}
        mark(status, "Ready", False, "NodeNotReady")
        metadata = {"namespace": running.namespace, "name": running.name}
        self._store.replace(PODS, {"metadata": metadata, "status": status}, status=True)
        self.tell(pod, "NodeNotReady", "Node is not ready", warning=True)
        await asyncio.sleep(self._configuration.node_lost_seconds)
        self.tell(pod, "TaintManagerEviction", f"Marking for deletion Pod {running.namespace}/{running.name}")
        with contextlib.suppress(RefusedError):
            self._store.delete(PODS, running.namespace, running.name, grace_seconds=None)

    def tell(self, pod: Object, reason: str, message: str, *, warning: bool = False) -> None:
        """Makes an event about a pod, or counts one up that was there."""
        namespace, uid = pod["metadata"]["namespace"], pod["metadata"]["uid"]
        kind = KINDS["events"]
        known = self._events.get((uid, reason, message), "")
        if known and (found := self._store.find("events", namespace, known)):
            self._store.replace(kind, {**found, "count": found["count"] + 1, "lastTimestamp": now()})
            return
        name = f"{pod['metadata']['name']}.{uuid.uuid4().hex[:16]}"
        event = {
            "metadata": {"name": name},
            "involvedObject": {
                "kind": "Pod",
                "apiVersion": "v1",
                "namespace": namespace,
                "name": pod["metadata"]["name"],
                "uid": uid,
            },
            "reason": reason,
            "message": message,
            "type": "Warning" if warning else "Normal",
            "count": 1,
            "firstTimestamp": now(),
            "lastTimestamp": now(),
            "source": {"component": "default-scheduler" if reason in ("Scheduled", "FailedScheduling") else "kubelet"},
        }
        with contextlib.suppress(RefusedError):  # the namespace may be going
            self._store.create(kind, namespace, event)
            self._events[uid, reason, message] = name

    def fault(self, pod: Object, image: Image) -> None:
        """See `pod.NodeActs`."""
        namespace, name = pod["metadata"]["namespace"], pod["metadata"]["name"]
        if (running := self.pods.get(pod["metadata"]["uid"])) is None:
            return
        match image.fault:
            case "evicted":
                self._spawn(self.evict(namespace, name))
            case "node-lost":
                self._spawn(self.lose(running.node))
            case "oom-killed":
                for container in pod["spec"]["containers"]:
                    if self._configuration.images.get(container["image"]) == image:
                        self._spawn(running.kill(container["name"], "OOMKilled"))
            case _:
                pass

    async def _place_waiting(self) -> None:
        for uid, pod in list(self._waiting.items()):
            if _gated(pod):
                continue
            node, why = self._fitting(pod)
            if self._waiting.get(uid) is not pod:
                continue
            if node is None:
                self._unschedulable(pod, why)
                continue
            del self._waiting[uid]
            self._bind(pod, node)

    def _fitting(self, pod: Object) -> tuple[Node | None, str]:
        reasons: Counter[str] = Counter()
        wanted, selector = asked(pod), pod["spec"].get("nodeSelector") or {}
        for node in self._configuration.nodes:
            labels = {"kubernetes.io/hostname": node.name, **node.labels}
            if node.name in self._lost:
                reasons["node(s) had untolerated taint {node.kubernetes.io/unreachable: }"] += 1
            elif any(labels.get(key) != value for key, value in selector.items()):
                reasons["node(s) didn't match Pod's node affinity/selector"] += 1
            elif short := self._short(node, wanted):
                reasons[short] += 1
            else:
                return node, ""
        told = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
        return None, f"0/{len(self._configuration.nodes)} nodes are available: {told}."

    def _short(self, node: Node, wanted: dict[str, Fraction]) -> str:
        held = [
            self._store.find("pods", pod.namespace, pod.name) for pod in self.pods.values() if pod.node == node.name
        ]
        there = [pod for pod in held if pod and pod.get("status", {}).get("phase") not in ("Succeeded", "Failed")]
        if len(there) >= quantity(node.capacity.get("pods", "110")):
            return "Too many pods"
        for name, value in wanted.items():
            used = sum((asked(pod).get(name, Fraction(0)) for pod in there), Fraction(0))
            if used + value > quantity(node.capacity.get(name, "0")):
                return f"Insufficient {name}"
        return ""

    def _unschedulable(self, pod: Object, why: str) -> None:
        self.tell(pod, "FailedScheduling", why, warning=True)
        found = self._store.get("pods", pod["metadata"]["namespace"], pod["metadata"]["name"])
        status = {**found.get("status", {}), "phase": "Pending"}
        status["conditions"] = [dict(each) for each in status.get("conditions", [])]
        mark(status, "PodScheduled", False, "Unschedulable", why)
        self._store.replace(PODS, {"metadata": _named(pod), "status": status}, status=True)

    def _bind(self, pod: Object, node: Node) -> None:
        found = self._store.get("pods", pod["metadata"]["namespace"], pod["metadata"]["name"])
        bound = {**found, "spec": {**found["spec"], "nodeName": node.name}}
        self._store.replace(PODS, bound)
        status: dict[str, Any] = {**found.get("status", {}), "phase": "Pending", "hostIP": self._configuration.host}
        status["podIP"] = next(self._addresses)
        status["podIPs"] = [{"ip": status["podIP"]}]
        status["conditions"] = [each for each in status.get("conditions", []) if each["type"] != "PodScheduled"]
        mark(status, "PodScheduled", True)
        placed = self._store.replace(PODS, {"metadata": _named(pod), "status": status}, status=True)
        self.tell(
            pod, "Scheduled", f"Successfully assigned {_named(pod)['namespace']}/{_named(pod)['name']} to {node.name}"
        )
        files = PodFiles(self._folder / "pods", self._folder / "claims", self._store, placed)
        self.pods[pod["metadata"]["uid"]] = RunningPod(self._configuration, self._store, self, placed, files)

    async def _terminate(self, pod: Object) -> None:
        running = self.pods[pod["metadata"]["uid"]]
        if running.node in self._lost:
            return
        for container in pod["spec"]["containers"]:
            if running.logs(container["name"]):
                self.tell(pod, "Killing", f"Stopping container {container['name']}")
        await running.end(float(pod["metadata"]["deletionGracePeriodSeconds"]))
        await self._gone(pod)

    async def _gone(self, pod: Object) -> None:
        """Takes the object away once no finalizer holds it, and what ran for it."""
        named = _named(pod)
        found = self._store.find("pods", named["namespace"], named["name"])
        if found is None or found["metadata"]["uid"] != pod["metadata"]["uid"] or found["metadata"].get("finalizers"):
            return
        self._store.remove(PODS, named["namespace"], named["name"])

    async def _bury(self, running: RunningPod, grace_seconds: float) -> None:
        await running.end(grace_seconds, silent=True)
        self.pods.pop(running.uid, None)
        await self._place_waiting()

    def _of(self, namespace: str, name: str) -> RunningPod:
        return self.pods[self._store.get("pods", namespace, name)["metadata"]["uid"]]

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _gated(pod: Object | None) -> bool:
    """Whether the scheduler must leave it alone still (`schedulingGates`)."""
    return bool(pod and pod["spec"].get("schedulingGates"))


def _named(pod: Object) -> dict[str, str]:
    return {"namespace": pod["metadata"]["namespace"], "name": pod["metadata"]["name"]}
