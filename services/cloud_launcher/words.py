"""What a pod's status and the cluster's events mean, in words a researcher understands. Pure; asks nobody."""

from __future__ import annotations

import re

import msgspec

from schemas.base import SessionId
from services.cloud_launcher.ports import (
    Inert,
    Over,
    PodName,
    Preparing,
    Queued,
    Report,
    Running,
    Seen,
    Serving,
    Silent,
    Told,
)

SERVER = "server"
"""The container that runs the user's server."""
SESSION_LABEL = "farlab-session"
NAME_PREFIX = "farlab-"
NOT_IN_TIME = 75
KILLED = 137
WORDS_CHARACTERS = 300


class _Strict(msgspec.Struct, frozen=True, rename="camel"):
    """Only what is looked at is decoded; the rest of an object is passed over."""


class Waiting(_Strict, frozen=True):
    """Why a container does not run."""

    reason: str = ""
    message: str = ""


class Terminated(_Strict, frozen=True):
    """How a container ended."""

    exit_code: int = 0
    reason: str = ""
    message: str = ""


class Begun(_Strict, frozen=True):
    """A container runs."""


class State(_Strict, frozen=True):
    """One of the three."""

    waiting: Waiting | None = None
    running: Begun | None = None
    terminated: Terminated | None = None


class Container(_Strict, frozen=True):
    """A container's status."""

    name: str
    ready: bool = False
    restart_count: int = 0
    state: State = State()
    last_state: State = State()


class Condition(_Strict, frozen=True):
    """A condition of the pod."""

    type: str
    status: str = ""
    reason: str = ""
    message: str = ""


class Status(_Strict, frozen=True):
    """What the cluster says of the pod."""

    phase: str = ""
    reason: str = ""
    message: str = ""
    pod_IP: str = msgspec.field(default="", name="podIP")  # noqa: N815
    conditions: list[Condition] = []
    container_statuses: list[Container] = []


class Metadata(_Strict, frozen=True):
    """Who it is."""

    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    deletion_timestamp: str | None = None
    labels: dict[str, str] = {}


class Gates(_Strict, frozen=True):
    """What keeps the scheduler from it."""

    scheduling_gates: list[msgspec.Raw] = []
    node_name: str = ""


class Pod(_Strict, frozen=True):
    """A pod, as far as it is looked at. `code` and `message` are there in place of it when a watch ends in an error."""

    metadata: Metadata = Metadata()
    spec: Gates = Gates()
    status: Status | str = Status()
    code: int = 0
    message: str = ""


class Involved(_Strict, frozen=True):
    """What an event is about."""

    name: str = ""


class Event(_Strict, frozen=True):
    """An event of the cluster, as far as it is looked at."""

    metadata: Metadata = Metadata()
    involved_object: Involved = Involved()
    reason: str = ""
    message: str = ""
    code: int = 0


def seen(pod: Pod) -> Seen:
    """The pod as the launcher sees it."""
    metadata = pod.metadata
    session = metadata.labels.get(SESSION_LABEL)
    return Seen(
        PodName(metadata.namespace, metadata.name, metadata.uid),
        SessionId(session) if session else None,
        report(pod),
        metadata.deletion_timestamp is not None,
    )


def report(pod: Pod) -> Report:
    """What a pod's status says."""
    status = pod.status
    if not isinstance(status, Status):
        return Silent("the cluster tells no status of the pod")
    conditions = {each.type: each for each in status.conditions}
    server = next((each for each in status.container_statuses if each.name == SERVER), Container(name=SERVER))
    if status.phase in ("Failed", "Succeeded"):
        return _over(status, conditions, server)
    if (ready := conditions.get("Ready")) is not None and _node_lost(ready, status):
        return Silent(f"The node {pod.spec.node_name} does not answer the cluster.")
    if pod.spec.scheduling_gates:
        return Inert()
    if (hopeless := _hopeless(server)) is not None:
        return hopeless
    if server.state.running is not None:
        return Serving(status.pod_IP) if server.ready and status.pod_IP else Running()
    scheduled = conditions.get("PodScheduled")
    if scheduled is None or scheduled.status != "True":
        return Queued(unschedulable(scheduled.message) if scheduled is not None else "")
    waiting = server.state.waiting
    return Preparing(_preparing(waiting) if waiting is not None else "")


def _node_lost(ready: Condition, status: Status) -> bool:
    """A node that fell silent: its controller marks its pods not ready, and in the end to be deleted."""
    unreachable = ready.status != "True" and ready.reason in ("NodeNotReady", "NodeLost")
    return unreachable or status.reason == "NodeLost" or status.phase == "Unknown"


def _over(status: Status, conditions: dict[str, Condition], server: Container) -> Over:
    terminated = server.state.terminated or server.last_state.terminated
    code = terminated.exit_code if terminated is not None else None
    said = _short(status.message)
    disrupted = conditions.get("DisruptionTarget")
    if status.phase == "Succeeded":
        return Over(outcome="finished", reason="The server ended by itself: it was shut down from inside.", exit_code=0)
    if status.reason == "Evicted":
        return Over(
            outcome="failed",
            reason=f"The node ran out of room and ended the server: {said}",
            remedy="Choose a flavour with more memory or storage, then start the server again.",
            exit_code=code,
        )
    if status.reason == "DeadlineExceeded":
        return Over(
            outcome="expired", reason="The server reached its maximum age.", remedy="Start it again.", exit_code=code
        )
    if terminated is not None and terminated.reason == "OOMKilled":
        return _out_of_memory(code)
    if status.reason in ("NodeLost", "NodeShutdown", "Terminated", "Preempting", "Shutdown") or (
        disrupted is not None and disrupted.status == "True"
    ):
        why = said or (_short(disrupted.message) if disrupted is not None else status.reason)
        return Over(
            outcome="lost",
            reason=f"The cloud took the server's node or place away: {why}",
            remedy="Start the server again.",
            exit_code=code,
        )
    if code == NOT_IN_TIME:
        return Over(
            outcome="failed",
            reason="JupyterLab did not start.",
            remedy="Look at the log below; a full home directory or a broken Jupyter configuration are common causes.",
            exit_code=code,
        )
    said_last = _short(terminated.message) if terminated is not None else said
    how = f" with exit code {code}" if code is not None else ""
    return Over(
        outcome="failed",
        reason=f"The server failed{how}{f': {said_last}' if said_last else '.'}",
        remedy="Look at the log below, then start the server again.",
        exit_code=code,
    )


def _out_of_memory(code: int | None) -> Over:
    return Over(
        outcome="failed",
        reason="The server used more memory than its flavour has, and was killed.",
        remedy="Choose a flavour with more memory, or load less data at once.",
        exit_code=KILLED if code is None else code,
    )


def _hopeless(server: Container) -> Over | None:
    """What can never begin, though the cluster goes on trying."""
    waiting = server.state.waiting
    if waiting is None:
        return None
    said = _short(waiting.message)
    match waiting.reason:
        case "InvalidImageName" | "ErrImageNeverPull":
            return _no_image(said)
        case "ImagePullBackOff" | "ErrImagePull" if _NO_IMAGE.search(waiting.message):
            return _no_image(said)
        case "CreateContainerConfigError" | "CreateContainerError" | "RunContainerError":
            return Over(
                outcome="failed",
                reason=f"The container cannot be made: {said}",
                remedy="Choose another image, or tell your support.",
                log=False,
            )
        case "CrashLoopBackOff":
            last = server.last_state.terminated or Terminated()
            if last.reason == "OOMKilled":
                return _out_of_memory(last.exit_code)
            return Over(
                outcome="failed",
                reason=f"The server crashes again and again: {server.restart_count} times, exit code {last.exit_code}.",
                remedy="Look at the log below; a broken Jupyter configuration in your home is a common cause.",
                exit_code=last.exit_code,
            )
        case _:
            return None


def _no_image(said: str) -> Over:
    return Over(
        outcome="failed",
        reason=f"The image cannot be had: {said}",
        remedy="Choose another image, or ask your support whether its name is right and the cloud may read it.",
        log=False,
    )


_NO_IMAGE = re.compile(
    r"not found|manifest unknown|does not exist|denied|unauthorized|authentication required|invalid reference", re.I
)
_TOO_SMALL = re.compile(r"\d+/\d+ nodes are available: (?P<reasons>.*?)\.?( preemption:.*)?$", re.S)


def unschedulable(message: str) -> str:
    """Why no node takes a pod; `0/2 nodes are available: 2 Insufficient cpu.` is the scheduler's way to say it."""
    found = _TOO_SMALL.match(message.strip())
    if found is None:
        return _short(message)
    reasons = [_reason(each.strip()) for each in found["reasons"].split(", ")]
    return f"No node of the cloud has room for it now: {', '.join(dict.fromkeys(reasons))}."[:WORDS_CHARACTERS]


def _reason(said: str) -> str:
    """One reason of the scheduler without its count of nodes."""
    words = re.sub(r"^\d+ ", "", said).rstrip(".")
    if words.startswith("Insufficient "):
        return f"not enough {words.removeprefix('Insufficient ')} is free"
    if "node affinity/selector" in words:
        return "no node is of the kind that is asked for"
    if "untolerated taint" in words:
        return "nodes are reserved for others or not ready"
    if words == "Too many pods":
        return "nodes have as many pods as they may"
    return words


def _preparing(waiting: Waiting) -> str:
    match waiting.reason:
        case "ContainerCreating" | "PodInitializing" | "":
            return ""
        case "ErrImagePull" | "ImagePullBackOff":
            return f"The image cannot be pulled now, and is tried again: {_short(waiting.message)}"[:WORDS_CHARACTERS]
        case other:
            return _short(f"{other} {waiting.message}")


def told(event: Event) -> Told | None:
    """An event about a session's pod, or None when it says nothing to a researcher."""
    name = event.involved_object.name
    if not name.startswith(NAME_PREFIX):
        return None
    percent, words = _event(event.reason, event.message)
    if not words:
        return None
    session = SessionId(name.removeprefix(NAME_PREFIX))
    return Told(session, percent, words[:WORDS_CHARACTERS], pulling=event.reason == "Pulling")


def _event(reason: str, message: str) -> tuple[int, str]:
    said = _short(message)
    match reason:
        case "TriggeredScaleUp":
            return 10, "The cloud adds a node for it; that takes some minutes."
        case "NotTriggerScaleUp":
            return 10, "No node has room for it, and the cloud adds none."
        case "Scheduled":
            return 20, f"It has a place on the node {message.rpartition(' to ')[2]}."
        case "FailedMount" | "FailedAttachVolume":
            return 25, f"A volume cannot be used yet: {said}"
        case "Pulling":
            return 30, f"Pulling the {_image(message)}."
        case "Pulled":
            took = re.search(r" in ([\d.hms]+)", message)
            return 50, f"The {_image(message)} was pulled in {took[1]}." if took else f"The {_image(message)} is there."
        case "FailedCreatePodSandBox":
            return 25, f"The node cannot prepare its network yet: {said}"
        case "BackOff" if "restarting" in message:
            return 60, "The server crashed and is started again."
        case "Evicted" | "Preempted" | "NodeNotReady" | "TaintManagerEviction":
            return 100, said
        case _:
            return 0, ""


def _image(message: str) -> str:
    found = re.search(r'image "([^"]+)"', message)
    return f"image {found[1]}" if found else "image"


def _short(message: str) -> str:
    return " ".join("".join(each if each.isprintable() else " " for each in message).split())[:WORDS_CHARACTERS]
