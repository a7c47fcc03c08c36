"""Pods of the emulated cluster as processes: how they run, what they say, how they fail, how they are reached."""

from __future__ import annotations

import asyncio
import json
import signal
import ssl
import struct
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from kubernetes.aio import client, watch
from kubernetes.aio.client.exceptions import ApiException

from emulators.cluster.cluster import Cluster
from emulators.cluster.configuration import Image, Node, Rule, User
from emulators.cluster.port_forward import PROTOCOL
from tests.support.kubernetes_cluster import SHELL, api_of, emulated_cluster, pod, until

HOME = "default"
BROKEN = {
    "registry.invalid/oom:1": Image(entrypoint=["/bin/sh", "-c"], fault="oom-killed", fault_seconds=0.05),
    "registry.invalid/evicted:1": Image(entrypoint=["/bin/sh", "-c"], fault="evicted", fault_seconds=0.05),
    "registry.invalid/lost:1": Image(entrypoint=["/bin/sh", "-c"], fault="node-lost", fault_seconds=0.05),
    "registry.invalid/slow:1": Image(entrypoint=["/bin/sh", "-c"], pull_seconds=60.0),
}


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    async with emulated_cluster(tmp_path, images=BROKEN) as found:
        yield found


@pytest.fixture
async def core(cluster: Cluster) -> AsyncIterator[client.CoreV1Api]:
    async with api_of(cluster.kubeconfig) as api:
        yield client.CoreV1Api(api)


async def seen(core: client.CoreV1Api, name: str, holds: Any) -> Any:
    return await until(lambda: core.read_namespaced_pod(name, HOME), holds)


async def gone(core: client.CoreV1Api, name: str) -> None:
    async def names() -> list[str]:
        return [each.metadata.name for each in (await core.list_namespaced_pod(HOME)).items]

    await until(names, lambda found: name not in found)


async def reasons(core: client.CoreV1Api, name: str) -> list[str]:
    events = await core.list_namespaced_event(HOME, field_selector=f"involvedObject.name={name}")
    return [event.reason for event in events.items]


def running(found: Any) -> bool:
    return bool(found.status and found.status.phase == "Running")


def waiting(reason: str) -> Any:
    def holds(found: Any) -> bool:
        statuses = (found.status.container_statuses if found.status else None) or []
        return any(each.state.waiting and each.state.waiting.reason == reason for each in statuses)

    return holds


async def test_a_pod_runs_to_its_end_and_its_log_stays(core: client.CoreV1Api) -> None:
    await core.create_namespaced_pod(HOME, pod("one", "for n in 1 2 3; do echo line $n; done"))
    ended = await seen(core, "one", lambda found: found.status and found.status.phase == "Succeeded")
    assert ended.status.container_statuses[0].state.terminated.exit_code == 0
    assert ended.status.pod_ip.startswith("127.")
    assert await core.read_namespaced_pod_log("one", HOME) == "line 1\nline 2\nline 3\n"
    assert await core.read_namespaced_pod_log("one", HOME, tail_lines=1) == "line 3\n"
    assert {"Scheduled", "Pulling", "Pulled", "Created", "Started"} <= set(await reasons(core, "one"))


async def test_a_log_is_followed_until_the_container_ends(core: client.CoreV1Api) -> None:
    await core.create_namespaced_pod(HOME, pod("one", "echo begun; read x < /dev/null; sleep 0.2; echo done"))
    await seen(core, "one", lambda found: found.status and found.status.phase in ("Running", "Succeeded"))
    answer = await core.read_namespaced_pod_log_without_preload_content("one", HOME, follow=True)
    async with asyncio.timeout(20):
        assert await answer.content.read() == b"begun\ndone\n"


async def test_secrets_claims_and_fields_of_the_pod_reach_the_process(core: client.CoreV1Api) -> None:
    await core.create_namespaced_secret(HOME, {"metadata": {"name": "keys"}, "stringData": {"token": "abc"}})
    claim = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    await core.create_namespaced_persistent_volume_claim(HOME, {"metadata": {"name": "home"}, "spec": claim})
    volumes = [
        {"name": "keys", "secret": {"secretName": "keys"}},
        {"name": "home", "persistentVolumeClaim": {"claimName": "home"}},
    ]
    container = {
        "volumeMounts": [{"name": "keys", "mountPath": "/run/keys"}, {"name": "home", "mountPath": "/home/user"}],
        "env": [
            {"name": "ADDRESS", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            {"name": "HOME", "value": "/home/user"},
            {"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "token"}}},
        ],
    }
    words = 'cat /run/keys/token; echo " $ADDRESS $KEY"; echo kept >> "$HOME/file"; cat /home/user/file'
    for name in ("one", "two"):
        await core.create_namespaced_pod(HOME, pod(name, words, volumes=volumes, container=container))
        ended = await seen(core, name, lambda found: found.status and found.status.phase in ("Succeeded", "Failed"))
        told = await core.read_namespaced_pod_log(name, HOME)
        assert told.startswith(f"abc {ended.status.pod_ip} abc\nkept\n"), told
        assert told.count("kept") == (1 if name == "one" else 2)


async def test_a_pod_waits_for_its_secret(core: client.CoreV1Api) -> None:
    volumes = [{"name": "keys", "secret": {"secretName": "late"}}]
    await core.create_namespaced_pod(HOME, pod("one", "echo here", volumes=volumes))
    await until(lambda: reasons(core, "one"), lambda found: "FailedMount" in found)
    await core.create_namespaced_secret(HOME, {"metadata": {"name": "late"}})
    await seen(core, "one", lambda found: found.status.phase == "Succeeded")


async def test_deletion_lets_the_process_finish_within_its_grace(core: client.CoreV1Api, cluster: Cluster) -> None:
    words = "trap 'echo bye; exit 0' TERM; echo ready; while :; do sleep 0.02; done"
    await core.create_namespaced_pod(HOME, pod("one", words))
    await until(lambda: _log(core, "one"), lambda told: "ready" in told)
    file = next(iter(cluster.nodes.pods.values())).log_file("main")
    answered = await core.delete_namespaced_pod("one", HOME, grace_period_seconds=20)
    assert answered.metadata.deletion_timestamp
    await gone(core, "one")
    assert file is not None
    assert "bye" in file.read_text()


async def test_a_process_that_ignores_the_request_is_killed_after_the_grace(core: client.CoreV1Api) -> None:
    await core.create_namespaced_pod(HOME, pod("one", "trap '' TERM; echo ready; while :; do sleep 0.02; done"))
    await until(lambda: _log(core, "one"), lambda told: "ready" in told)
    async with asyncio.timeout(10):
        await core.delete_namespaced_pod("one", HOME, grace_period_seconds=1)
        await gone(core, "one")


async def _log(core: client.CoreV1Api, name: str) -> str:
    try:
        return str(await core.read_namespaced_pod_log(name, HOME))
    except ApiException as error:
        assert error.status == 400
        return ""


async def test_an_image_that_is_not_there_backs_off(core: client.CoreV1Api) -> None:
    await core.create_namespaced_pod(HOME, pod("one", image="registry.invalid/none:1"))
    await seen(core, "one", waiting("ImagePullBackOff"))
    await core.delete_namespaced_pod("one", HOME)
    await gone(core, "one")


async def test_a_slow_pull_can_be_given_up(core: client.CoreV1Api) -> None:
    await core.create_namespaced_pod(HOME, pod("one", image="registry.invalid/slow:1"))
    await until(lambda: reasons(core, "one"), lambda found: "Pulling" in found)
    async with asyncio.timeout(10):
        await core.delete_namespaced_pod("one", HOME)
        await gone(core, "one")


async def test_a_container_that_keeps_failing_is_in_a_crash_loop(core: client.CoreV1Api) -> None:
    await core.create_namespaced_pod(HOME, pod("one", "echo sorry; exit 3", restartPolicy="Always"))
    found = await seen(core, "one", waiting("CrashLoopBackOff"))
    assert found.status.container_statuses[0].last_state.terminated.exit_code == 3
    await seen(core, "one", lambda found: found.status.container_statuses[0].restart_count >= 2)
    assert await core.read_namespaced_pod_log("one", HOME, previous=True) == "sorry\n"


async def test_a_container_out_of_memory_says_so(core: client.CoreV1Api) -> None:
    await core.create_namespaced_pod(HOME, pod("one", image="registry.invalid/oom:1"))
    found = await seen(core, "one", lambda found: found.status and found.status.phase == "Failed")
    ended = found.status.container_statuses[0].state.terminated
    assert (ended.reason, ended.exit_code) == ("OOMKilled", 137)


async def test_an_evicted_pod_says_why(core: client.CoreV1Api) -> None:
    await core.create_namespaced_pod(HOME, pod("one", image="registry.invalid/evicted:1"))
    found = await seen(core, "one", lambda found: found.status and found.status.phase == "Failed")
    assert found.status.reason == "Evicted"
    assert "low on resource" in found.status.message


async def test_pods_of_a_lost_node_are_marked_and_go_when_it_returns(core: client.CoreV1Api, cluster: Cluster) -> None:
    await core.create_namespaced_pod(HOME, pod("one", image="registry.invalid/lost:1"))
    found = await seen(core, "one", lambda found: found.metadata.deletion_timestamp)
    assert found.status.phase == "Running"
    node = await core.read_node(found.spec.node_name)
    assert next(each for each in node.status.conditions if each.type == "Ready").status == "Unknown"
    await cluster.nodes.regain(found.spec.node_name)
    await gone(core, "one")


async def test_a_pod_of_a_lost_node_can_be_forced_away(core: client.CoreV1Api) -> None:
    await core.create_namespaced_pod(HOME, pod("one", image="registry.invalid/lost:1"))
    await seen(core, "one", lambda found: found.metadata.deletion_timestamp)
    await core.delete_namespaced_pod("one", HOME, grace_period_seconds=0)
    await gone(core, "one")


async def test_a_pod_that_fits_nowhere_waits_and_says_why(tmp_path: Path) -> None:
    nodes = [Node(name="small", capacity={"cpu": "1", "memory": "1Gi", "pods": "10"})]
    async with emulated_cluster(tmp_path, nodes=nodes) as cluster, api_of(cluster.kubeconfig) as api:
        core = client.CoreV1Api(api)
        one_cpu = {"resources": {"requests": {"cpu": "1"}}}
        await core.create_namespaced_pod(HOME, pod("one", container=one_cpu))
        await seen(core, "one", running)
        await core.create_namespaced_pod(HOME, pod("two", container=one_cpu))
        found = await seen(core, "two", lambda found: found.status and found.status.conditions)
        assert found.status.conditions[0].message == "0/1 nodes are available: 1 Insufficient cpu."
        assert found.status.conditions[0].reason == "Unschedulable"
        await core.delete_namespaced_pod("one", HOME, grace_period_seconds=0)
        await seen(core, "two", running)


async def test_the_deadline_of_a_pod_ends_it(core: client.CoreV1Api) -> None:
    await core.create_namespaced_pod(HOME, pod("one", activeDeadlineSeconds=1))
    found = await seen(core, "one", lambda found: found.status and found.status.phase == "Failed")
    assert found.status.reason == "DeadlineExceeded"


async def test_a_server_in_a_pod_is_reached_by_port_forward(core: client.CoreV1Api, cluster: Cluster) -> None:
    serve = f'exec {sys.executable} -m http.server 8888 --bind "$ADDRESS"'
    address = {"name": "ADDRESS", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}
    await core.create_namespaced_pod(HOME, pod("one", serve, container={"env": [address]}))
    await seen(core, "one", running)

    async def answer() -> bytes:
        return await forwarded(cluster, core, b"GET / HTTP/1.0\r\n\r\n")

    assert b"200 OK" in await until(answer, lambda told: told.startswith(b"HTTP/1.0"))


async def forwarded(cluster: Cluster, core: client.CoreV1Api, data: bytes) -> bytes:
    """What comes back on the data channel; empty when the port is refused."""
    url = f"{cluster.url}/api/v1/namespaces/{HOME}/pods/one/portforward?ports=8888"
    headers = {"Authorization": core.api_client.configuration.api_key["BearerToken"]}
    tls = ssl.create_default_context(cafile=str(cluster.ca_file))
    async with (
        aiohttp.ClientSession(headers=headers) as http,
        http.ws_connect(url, protocols=(PROTOCOL,), ssl=tls) as socket,
    ):
        assert socket.protocol == PROTOCOL
        assert await socket.receive_bytes() == b"\x00" + struct.pack("<H", 8888)
        assert await socket.receive_bytes() == b"\x01" + struct.pack("<H", 8888)
        await socket.send_bytes(b"\x00" + data)
        back = b""
        async for message in socket:
            if message.data[0] == 1:
                assert b"failed to connect" in message.data
                return b""
            back += message.data[1:]
        return back


async def test_rights_are_per_verb_resource_and_namespace(tmp_path: Path) -> None:
    rules = [Rule(namespaces=["mine"], resources=["pods"], verbs=["get", "list"])]
    users = [User(name="root", token="t-root"), User(name="reader", token="t-reader", rules=rules)]
    reader = tmp_path / "cluster" / "reader.kubeconfig"
    async with emulated_cluster(tmp_path, users=users, namespaces=["mine"]), api_of(reader) as api:
        core = client.CoreV1Api(api)
        assert (await core.list_namespaced_pod("mine")).items == []
        for call in (core.list_namespaced_pod(HOME), core.create_namespaced_pod("mine", pod("one"))):
            with pytest.raises(ApiException) as caught:
                await call
            assert caught.value.status == 403
            assert json.loads(caught.value.body)["message"].startswith("pods is forbidden: User")


async def test_a_watch_of_forgotten_versions_is_410(core: client.CoreV1Api, cluster: Cluster) -> None:
    made = await core.create_namespaced_config_map(HOME, {"metadata": {"name": "one"}})
    await core.create_namespaced_config_map(HOME, {"metadata": {"name": "two"}})
    cluster.store.compact()
    async with watch.Watch() as watching:
        old = watching.stream(
            core.list_namespaced_config_map,
            HOME,
            resource_version=made.metadata.resource_version,
            timeout_seconds=5,
        )
        with pytest.raises(ApiException) as caught:
            await anext(old)
    assert caught.value.status == 410


async def test_objects_and_pods_outlive_a_restart_of_the_api_server(core: client.CoreV1Api, cluster: Cluster) -> None:
    await core.create_namespaced_pod(HOME, pod("one"))
    before = await seen(core, "one", running)
    await cluster.shut()
    with pytest.raises(aiohttp.ClientError):
        await core.read_namespaced_pod("one", HOME)
    await cluster.serve()
    after = await core.read_namespaced_pod("one", HOME)
    assert after.metadata.uid == before.metadata.uid
    assert running(after)


async def test_a_silent_watch_tells_nothing_until_it_speaks(core: client.CoreV1Api, cluster: Cluster) -> None:
    cluster.watches.speaking.clear()
    async with watch.Watch() as watching:
        stream = watching.stream(core.list_namespaced_config_map, HOME, resource_version=str(cluster.store.version))
        first = asyncio.ensure_future(anext(stream))
        await core.create_namespaced_config_map(HOME, {"metadata": {"name": "one"}})
        done, _ = await asyncio.wait({first}, timeout=0.5)
        assert not done
        cluster.watches.speaking.set()
        async with asyncio.timeout(10):
            assert (await first)["object"].metadata.name == "one"


async def test_a_namespace_goes_with_everything_in_it(core: client.CoreV1Api) -> None:
    await core.create_namespace({"metadata": {"name": "short"}})
    await core.create_namespaced_pod("short", pod("one"))
    await until(lambda: core.read_namespaced_pod("one", "short"), running)
    await core.delete_namespace("short")

    async def names() -> list[str]:
        return [each.metadata.name for each in (await core.list_namespace()).items]

    await until(names, lambda found: "short" not in found)


async def test_as_a_program_it_serves_and_leaves_no_process(tmp_path: Path) -> None:
    config = tmp_path / "cluster.toml"
    words = {"folder": str(tmp_path / "state"), "shell": SHELL}
    config.write_text(f'folder = {json.dumps(words["folder"])}\n[images."{SHELL}"]\nentrypoint = ["/bin/sh", "-c"]\n')
    program = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "emulators.cluster", "--config", str(config), stdout=subprocess.PIPE
    )
    try:
        assert program.stdout is not None
        async with asyncio.timeout(30):
            assert b"emulated cluster" in await program.stdout.readline()
        marker = tmp_path / "pid"
        async with api_of(tmp_path / "state" / "kubeconfig") as api:
            core = client.CoreV1Api(api)
            await core.create_namespaced_pod(HOME, pod("one", f"echo $$ > {marker}; exec sleep 60"))
            await seen(core, "one", running)

            async def pid() -> str:
                return marker.read_text().strip() if marker.exists() else ""

            number = await until(pid, lambda told: told)
    finally:
        program.send_signal(signal.SIGTERM)
        assert await program.wait() == 0
    assert not Path(f"/proc/{number}").exists()


async def test_a_wrong_configuration_is_one_line(tmp_path: Path) -> None:
    config = tmp_path / "cluster.toml"
    config.write_text('folder = "x"\nporto = 1\n')
    program = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "emulators.cluster", "--config", str(config), stderr=subprocess.PIPE
    )
    _, told = await program.communicate()
    assert program.returncode == 2
    assert told.decode().count("\n") == 1
    assert "porto" in told.decode()
