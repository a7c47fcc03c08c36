"""Ways to pods through an emulated cluster's API server: bytes both ways, ports that stay, what a restart does."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from emulators.cluster.cluster import Cluster
from schemas.base import SessionId
from services._runtime.api_server import api_of
from services._runtime.clouds import KubernetesSite
from services.tunneler.listening import PortRange
from services.tunneler.pod_forward import ApiServerSide
from services.tunneler.ports import Address, Target
from services.tunneler.stream_forward import StreamWays
from tests.support.kubernetes_cluster import api_of as client_of
from tests.support.kubernetes_cluster import emulated_cluster, pod, until

SESSION = SessionId("01s")
ECHO = f"""exec {sys.executable} -c "
import os, socketserver
class Echo(socketserver.BaseRequestHandler):
    def handle(self):
        while data := self.request.recv(65536):
            self.request.sendall(data)
class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
Server((os.environ['ADDRESS'], 8888), Echo).serve_forever()
" """
CONTAINER = {
    "env": [{"name": "ADDRESS", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
    "readinessProbe": {"tcpSocket": {"port": 8888}, "periodSeconds": 1},
}


async def echoing(cluster: Cluster) -> None:
    """A pod that answers what it hears, as a session's service names it."""
    from kubernetes.aio import client

    async with client_of(cluster.kubeconfig) as api:
        core = client.CoreV1Api(api)
        await core.create_namespaced_pod("default", pod("farlab-01s", ECHO, container=CONTAINER))
        await until(
            lambda: core.read_namespaced_pod("farlab-01s", "default"),
            lambda found: found.status.container_statuses and found.status.container_statuses[0].ready,
        )


def ways_of(cluster: Cluster) -> StreamWays:
    site = KubernetesSite(kubeconfig=str(cluster.kubeconfig), timeout_seconds=5)
    return StreamWays(ApiServerSide(api_of("Demo Cloud", site)), PortRange("127.0.0.1", (0, 0)))


async def said_back(address: Address, content: bytes) -> bytes:
    reader, writer = await asyncio.open_connection(address.host, address.port)
    try:
        writer.write(content)
        return await asyncio.wait_for(reader.readexactly(len(content)), 10)
    finally:
        writer.close()


async def test_bytes_go_both_ways_and_the_port_stays_over_a_restart_of_the_api_server(tmp_path: Path) -> None:
    async with emulated_cluster(tmp_path) as cluster:
        await echoing(cluster)
        ways = ways_of(cluster)
        await ways.start()
        way = await ways.open(SESSION, Target("farlab-01s.default.svc", 8888), 0)
        assert way.via == "port-forward"
        content = bytes(range(256)) * 4096
        assert await said_back(way.address, content) == content
        many = await asyncio.gather(*(said_back(way.address, bytes([number]) * 1000) for number in range(20)))
        assert many == [bytes([number]) * 1000 for number in range(20)]
        await cluster.shut()
        with pytest.raises(asyncio.IncompleteReadError):
            await said_back(way.address, b"anybody?")
        assert not ways.came_back.is_set()
        await cluster.serve()
        assert await said_back(way.address, b"again") == b"again"
        assert ways.came_back.is_set()
        assert await ways.open(SESSION, Target("farlab-01s.default.svc", 8888), 0) is way
        await ways.forget(SESSION)
        with pytest.raises(OSError):
            await said_back(way.address, b"gone")
        await ways.close()


async def test_what_does_not_listen_or_is_no_pod_is_a_closed_connection(tmp_path: Path) -> None:
    async with emulated_cluster(tmp_path) as cluster:
        await echoing(cluster)
        ways = ways_of(cluster)
        for host, port in (("farlab-01s.default.svc", 8889), ("farlab-other.default.svc", 8888), ("nowhere", 1)):
            way = await ways.open(SESSION, Target(host, port), 0)
            with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
                await said_back(way.address, b"anybody?")
        await ways.close()
