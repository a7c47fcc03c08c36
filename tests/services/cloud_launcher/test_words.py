"""What pods and events of a cluster mean, in a researcher's words."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from services.cloud_launcher.ports import Inert, Over, Preparing, Queued, Running, Serving, Silent
from services.cloud_launcher.words import Event, Pod, report, seen, told, unschedulable


def pod(status: dict[str, Any], **spec: Any) -> Pod:
    metadata = {"name": "farlab-01s", "namespace": "farlab", "uid": "u", "labels": {"farlab-session": "01s"}}
    return msgspec.json.decode(msgspec.json.encode({"metadata": metadata, "spec": spec, "status": status}), type=Pod)


def server(state: dict[str, Any], **more: Any) -> dict[str, Any]:
    scheduled = {"type": "PodScheduled", "status": "True"}
    statuses = [{"name": "sidecar", "state": {}}, {"name": "server", "state": state, **more}]
    return {"phase": "Running", "podIP": "10.0.0.7", "conditions": [scheduled], "containerStatuses": statuses}


def waiting(reason: str, message: str = "") -> dict[str, Any]:
    return server({"waiting": {"reason": reason, "message": message}})


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (pod({"phase": "Pending"}, schedulingGates=[{"name": "farlab/x"}]), Inert()),
        (pod({"phase": "Pending"}), Queued()),
        (pod(waiting("ContainerCreating")), Preparing()),
        (
            pod(waiting("ErrImagePull", "registry is down")),
            Preparing("The image cannot be pulled now, and is tried again: registry is down"),
        ),
        (pod(server({"running": {"startedAt": "now"}})), Running()),
        (pod(server({"running": {}}, ready=True)), Serving("10.0.0.7")),
    ],
)
def test_a_pod_on_its_way(found: Pod, expected: object) -> None:
    assert report(found) == expected


@pytest.mark.parametrize(
    ("status", "outcome", "words"),
    [
        ({"phase": "Succeeded"}, "finished", "shut down from inside"),
        (
            {"phase": "Failed", "reason": "Evicted", "message": "The node was low on memory."},
            "failed",
            "ran out of room",
        ),
        ({"phase": "Failed", "reason": "DeadlineExceeded"}, "expired", "maximum age"),
        ({"phase": "Failed", "reason": "NodeShutdown", "message": "going down"}, "lost", "took the server's node"),
        (
            {"phase": "Failed", "conditions": [{"type": "DisruptionTarget", "status": "True", "message": "preempted"}]},
            "lost",
            "preempted",
        ),
        (
            server({"terminated": {"exitCode": 137, "reason": "OOMKilled"}}) | {"phase": "Failed"},
            "failed",
            "more memory",
        ),
        (server({"terminated": {"exitCode": 75}}) | {"phase": "Failed"}, "failed", "JupyterLab did not start"),
        (
            server({"terminated": {"exitCode": 1, "message": "boom"}}) | {"phase": "Failed"},
            "failed",
            "exit code 1: boom",
        ),
        ({"phase": "Failed"}, "failed", "The server failed."),
        (waiting("ImagePullBackOff", "manifest unknown"), "failed", "The image cannot be had"),
        (waiting("InvalidImageName", "bad"), "failed", "The image cannot be had"),
        (waiting("CreateContainerConfigError", 'secret "x" not found'), "failed", "container cannot be made"),
        (
            server(
                {"waiting": {"reason": "CrashLoopBackOff"}},
                restartCount=3,
                lastState={"terminated": {"exitCode": 137, "reason": "OOMKilled"}},
            ),
            "failed",
            "more memory",
        ),
    ],
)
def test_a_pod_that_is_over_or_can_never_begin(status: dict[str, Any], outcome: str, words: str) -> None:
    over = report(pod(status))
    assert isinstance(over, Over)
    assert over.outcome == outcome
    assert words in over.reason


def test_a_lost_node_is_no_proof_of_an_end() -> None:
    ready = {"type": "Ready", "status": "False", "reason": "NodeNotReady"}
    lost = pod({"phase": "Running", "conditions": [ready]}, nodeName="node-7")
    assert report(lost) == Silent("The node node-7 does not answer the cluster.")


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (
            "0/4 nodes are available: 1 Insufficient cpu, 3 Insufficient memory. preemption: 0/4 nodes are available.",
            "No node of the cloud has room for it now: not enough cpu is free, not enough memory is free.",
        ),
        (
            "0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector.",
            "No node of the cloud has room for it now: no node is of the kind that is asked for.",
        ),
        ("something new", "something new"),
    ],
)
def test_why_no_node_takes_it(message: str, words: str) -> None:
    assert unschedulable(message) == words


@pytest.mark.parametrize(
    ("reason", "message", "words"),
    [
        ("Pulling", 'Pulling image "a/b:1"', "Pulling the image a/b:1."),
        ("Pulled", 'Successfully pulled image "a/b:1" in 1m2.5s (2m waiting)', "The image a/b:1 was pulled in 1m2.5s."),
        ("Pulled", 'Container image "a/b:1" already present on machine', "The image a/b:1 is there."),
        ("Scheduled", "Successfully assigned farlab/x to node-3", "It has a place on the node node-3."),
        ("FailedMount", "no such\nvolume", "A volume cannot be used yet: no such volume"),
        ("TriggeredScaleUp", "pod triggered scale-up", "The cloud adds a node for it; that takes some minutes."),
    ],
)
def test_events_are_told_in_words(reason: str, message: str, words: str) -> None:
    event = {"involvedObject": {"name": "farlab-01s"}, "reason": reason, "message": message}
    said = told(msgspec.convert(event, Event))
    assert said is not None
    assert (said.session, said.words) == ("01s", words)


def test_events_of_others_and_small_talk_are_passed_over() -> None:
    assert told(msgspec.convert({"involvedObject": {"name": "web-1"}, "reason": "Pulling"}, Event)) is None
    assert told(msgspec.convert({"involvedObject": {"name": "farlab-01s"}, "reason": "Created"}, Event)) is None


def test_only_what_is_looked_at_is_decoded() -> None:
    whole = {"metadata": {"name": "farlab-01s", "uid": "u", "managedFields": [{"x": 1}]}, "spec": {"containers": [{}]}}
    found = seen(msgspec.json.decode(msgspec.json.encode(whole), type=Pod))
    assert found.session is None
    assert found.pod.uid == "u"
