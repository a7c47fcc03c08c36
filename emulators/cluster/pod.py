"""The life of one pod on its node: pull, start, restart, end. What it learns it writes into the pod's status.

Of probes it knows readiness until it succeeds first; without one, a container that runs is ready.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from emulators.cluster.configuration import ClusterConfiguration, Image
from emulators.cluster.kinds import KINDS, Object
from emulators.cluster.probes import until_ready
from emulators.cluster.store import Store, now
from emulators.cluster.volumes import MissingError, PodFiles
from emulators.processes import Step

PODS = KINDS["pods"]
LONGEST_BACKOFF_SECONDS = 300.0
OOM_EXIT = 137


class NodeActs(Protocol):
    """What a pod asks of its surroundings."""

    def tell(self, pod: Object, reason: str, message: str, *, warning: bool = False) -> None:
        """Makes an event about the pod."""

    def fault(self, pod: Object, image: Image) -> None:
        """Does to the pod what its image was told to bring about."""


class RunningPod:
    """A pod that was given to a node."""

    def __init__(
        self, configuration: ClusterConfiguration, store: Store, acts: NodeActs, pod: Object, files: PodFiles
    ) -> None:
        self._configuration = configuration
        self._store = store
        self._acts = acts
        self._files = files
        self.namespace, self.name = pod["metadata"]["namespace"], pod["metadata"]["name"]
        self.uid, self.node = pod["metadata"]["uid"], pod["spec"]["nodeName"]
        self.address: str = pod["status"]["podIP"]
        self._ending = asyncio.Event()
        self._steps: dict[str, Step] = {}
        self._killed: dict[str, str] = {}
        self._restarts: dict[str, int] = {}
        self._verdict: tuple[str, str] | None = None
        self.silent = False
        self._task = asyncio.create_task(self._live(pod))

    def log_file(self, container: str, *, previous: bool = False) -> Path | None:
        """The log of a container's present run, or the one before; None when there was none."""
        number = self._restarts.get(container, 0) - (1 if previous else 0)
        file = self._files.folder / f"{container}.{number}.log"
        return file if number >= 0 and file.exists() else None

    def logs(self, container: str) -> bool:
        """Whether the container runs now, so that its log may grow."""
        return container in self._steps

    async def end(self, grace_seconds: float, *, verdict: tuple[str, str] | None = None, silent: bool = False) -> None:
        """Ends its processes. `verdict`: reason and message of its failure. `silent`: nobody hears of it."""
        self._verdict = self._verdict or verdict
        self.silent = self.silent or silent
        self._ending.set()
        await asyncio.gather(*(step.stop(grace_seconds) for step in list(self._steps.values())))
        await asyncio.gather(self._task, return_exceptions=True)

    async def kill(self, container: str, reason: str) -> None:
        """Kills a container's process, as the kernel or a crash does."""
        if step := self._steps.get(container):
            self._killed[container] = reason
            await step.stop(0.0)

    def status(self, change: Callable[[dict[str, Any]], None]) -> None:
        """Writes the pod's status, unless the pod is gone or its node is lost."""
        found = self._store.find("pods", self.namespace, self.name)
        if self.silent or found is None or found["metadata"]["uid"] != self.uid:
            return
        status = copy.deepcopy(found.get("status", {}))
        change(status)
        metadata = {"namespace": self.namespace, "name": self.name}
        self._store.replace(PODS, {"metadata": metadata, "status": status}, status=True)

    async def _live(self, pod: Object) -> None:
        self._starting(pod)
        told = False
        while not self._ending.is_set():
            try:
                self._files.mount(pod)
                break
            except MissingError as error:
                if not told:
                    self._acts.tell(pod, "FailedMount", f"MountVolume.SetUp failed: {error}", warning=True)
                told = True
                await self._or_ending(asyncio.create_task(self._store.changed.wait()))
        lives = [asyncio.create_task(self._contain(pod, container)) for container in pod["spec"]["containers"]]
        limit = pod["spec"].get("activeDeadlineSeconds")
        clock = asyncio.get_running_loop().call_later(limit, self._deadline) if limit else None
        codes = await asyncio.gather(*lives)
        if clock is not None:
            clock.cancel()
        self.status(lambda status: self._over(status, codes))

    def _deadline(self) -> None:
        self._verdict = ("DeadlineExceeded", "Pod was active on the node longer than the specified deadline")
        self._ending.set()
        for step in self._steps.values():
            step.ask()

    def _starting(self, pod: Object) -> None:
        def change(status: dict[str, Any]) -> None:
            status["startTime"] = now()
            status["containerStatuses"] = [
                {
                    "name": container["name"],
                    "image": container["image"],
                    "imageID": "",
                    "ready": False,
                    "started": False,
                    "restartCount": 0,
                    "state": {"waiting": {"reason": "ContainerCreating"}},
                    "lastState": {},
                }
                for container in pod["spec"]["containers"]
            ]
            mark(status, "Initialized", True)
            mark(status, "Ready", False, "ContainersNotReady")
            mark(status, "ContainersReady", False, "ContainersNotReady")

        self.status(change)

    def _over(self, status: dict[str, Any], codes: list[int]) -> None:
        if self._verdict is not None:
            status["reason"], status["message"] = self._verdict
        failed = self._verdict is not None or any(codes)
        status["phase"] = "Failed" if failed else "Succeeded"
        done = "" if failed else "PodCompleted"
        mark(status, "Ready", False, done or "PodFailed")
        mark(status, "ContainersReady", False, done or "PodFailed")

    async def _contain(self, pod: Object, container: dict[str, Any]) -> int:
        """Runs a container until it is over for good; the last exit code."""
        name, policy = container["name"], pod["spec"].get("restartPolicy", "Always")
        image = await self._pulled(pod, container)
        code = 0
        while image is not None and not self._ending.is_set():
            code = await self._run(pod, container, image)
            if self._ending.is_set() or policy == "Never" or (policy == "OnFailure" and code == 0):
                break
            self._restarts[name] = self._restarts.get(name, 0) + 1
            await self._back_off(pod, name)
        return code

    async def _pulled(self, pod: Object, container: dict[str, Any]) -> Image | None:
        name, wanted = container["name"], container["image"]
        image = self._configuration.images.get(wanted)
        self._acts.tell(pod, "Pulling", f'Pulling image "{wanted}"')
        if await self._pause(image.pull_seconds if image else 0.0):
            return None
        if image is not None and image.fault != "unpullable":
            self._acts.tell(pod, "Pulled", f'Successfully pulled image "{wanted}" in {image.pull_seconds:g}s')
            return image
        why = f'Failed to pull image "{wanted}": failed to resolve reference "{wanted}": not found'
        self._acts.tell(pod, "Failed", why, warning=True)
        self._acts.tell(pod, "Failed", "Error: ErrImagePull", warning=True)
        self._state(name, {"waiting": {"reason": "ErrImagePull", "message": why}})
        if not await self._pause(min(0.05, self._configuration.crash_backoff_seconds)):
            back = f'Back-off pulling image "{wanted}"'
            self._acts.tell(pod, "BackOff", back, warning=True)
            self._acts.tell(pod, "Failed", "Error: ImagePullBackOff", warning=True)
            self._state(name, {"waiting": {"reason": "ImagePullBackOff", "message": f"{back}: {why}"}})
        await self._ending.wait()
        return None

    async def _run(self, pod: Object, container: dict[str, Any], image: Image) -> int:
        name = container["name"]
        step = await self._begun(pod, container, image)
        if step is None:
            return 128
        began = now()
        self._steps[name] = step
        self._acts.tell(pod, "Created", f"Created container: {name}")
        self._acts.tell(pod, "Started", f"Started container {name}")
        probe = container.get("readinessProbe")
        self._state(name, {"running": {"startedAt": began}}, ready=not probe)
        probing = asyncio.create_task(self._probe(name, probe, began))
        if self._ending.is_set():
            await step.stop(0.0)
        fault = asyncio.get_running_loop().call_later(image.fault_seconds, self._acts.fault, pod, image)
        if not image.fault:
            fault.cancel()
        code = await step.wait()
        fault.cancel()
        probing.cancel()
        del self._steps[name]
        reason = self._killed.pop(name, "Completed" if code == 0 else "Error")
        code = OOM_EXIT if reason == "OOMKilled" else code
        ended = {"exitCode": code, "reason": reason, "startedAt": began, "finishedAt": now()}
        self._state(name, {"terminated": {**ended, "containerID": f"emulated://{self.uid}/{name}"}})
        return code

    async def _probe(self, name: str, probe: dict[str, Any] | None, began: str) -> None:
        if probe:
            await until_ready(probe, self.address)
            self._state(name, {"running": {"startedAt": began}}, ready=True)

    async def _begun(self, pod: Object, container: dict[str, Any], image: Image) -> Step | None:
        name, log = (
            container["name"],
            self._files.folder / f"{container['name']}.{self._restarts.get(container['name'], 0)}.log",
        )
        try:
            pod = self._store.find("pods", self.namespace, self.name) or pod
            environment = self._files.environment(pod, container, image, self._configuration.path)
            return await Step.begin(
                self._files.command(container, image, environment),
                folder=self._files.working_folder(container),
                environment=environment,
                files=(None, log, log),
                umask=0o077,
                grace_seconds=float(pod["spec"].get("terminationGracePeriodSeconds", 30)),
            )
        except (OSError, ValueError, MissingError) as error:
            reason = "CreateContainerConfigError" if isinstance(error, MissingError) else "RunContainerError"
            self._acts.tell(pod, "Failed", f"Error: {error}", warning=True)
            self._state(name, {"waiting": {"reason": reason, "message": str(error)}})
            return None

    async def _back_off(self, pod: Object, name: str) -> None:
        restarts = self._restarts[name]
        pause = min(self._configuration.crash_backoff_seconds * 2 ** (restarts - 1), LONGEST_BACKOFF_SECONDS)
        message = f"back-off {pause:g}s restarting failed container={name} pod={self.name}_{self.namespace}({self.uid})"
        self._acts.tell(pod, "BackOff", f"Back-off restarting failed container {name}", warning=True)
        self._state(name, {"waiting": {"reason": "CrashLoopBackOff", "message": message}}, restarts=restarts)
        await self._pause(pause)

    def _state(
        self, container: str, state: dict[str, Any], *, ready: bool = False, restarts: int | None = None
    ) -> None:
        def change(status: dict[str, Any]) -> None:
            for each in status.get("containerStatuses", []):
                if each["name"] == container:
                    if "terminated" in each["state"]:
                        each["lastState"] = each["state"]
                    each |= {"state": state, "ready": ready, "started": "running" in state}
                    each["restartCount"] = each["restartCount"] if restarts is None else restarts
            every = all(each["ready"] for each in status.get("containerStatuses", []))
            if "running" in state and status.get("phase") == "Pending":
                status["phase"] = "Running"
            mark(status, "Ready", every, "" if every else "ContainersNotReady")
            mark(status, "ContainersReady", every, "" if every else "ContainersNotReady")

        self.status(change)

    async def _pause(self, seconds: float) -> bool:
        """A pause; true when the pod is to end."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._ending.wait()
        return self._ending.is_set()

    async def _or_ending(self, waiting: asyncio.Task[Any]) -> None:
        ending = asyncio.create_task(self._ending.wait())
        await asyncio.wait({waiting, ending}, return_when=asyncio.FIRST_COMPLETED)
        for task in (waiting, ending):
            task.cancel()


def mark(status: dict[str, Any], type_: str, holds: bool, reason: str = "", message: str = "") -> None:
    """Sets a condition; the time of its transition changes only when it does."""
    conditions = status.setdefault("conditions", [])
    found = next((each for each in conditions if each["type"] == type_), None)
    value = "True" if holds else "False"
    if found is None:
        found = {"type": type_, "lastProbeTime": None}
        conditions.append(found)
    if found.get("status") != value:
        found |= {"status": value, "lastTransitionTime": now()}
    for key, told in (("reason", reason), ("message", message)):
        found.pop(key, None)
        if told:
            found[key] = told
