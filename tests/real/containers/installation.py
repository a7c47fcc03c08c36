"""The running system of compose.yaml, as an operator and a user meet it. Decides nothing about it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from services.operator_cli.probe import TROUBLE, Hub, server_path
from tests.real.containers.engine import Engine
from tests.real.machine import until

HUB = "http://localhost:8000/"
SERVICES = ("accounts", "hpc-launcher", "tunneler")
"""What a rolling restart restarts besides the hub."""
NATS = ("nats-1", "nats-2", "nats-3")
OURS = ("proxy", "hub", "postgresql", "identity-provider", *SERVICES, *NATS)
"""The containers that are hardened."""
HEALTHY_SECONDS = 120.0
OPTIONS = {"system": "cluster", "project": "ztrain", "partition": "batch", "runtime_minutes": 30}
ACCOUNTS = {"ada": "lovelace1", "ben": "johnson1"}


class Installation:
    """The containers, the operator's command, and the site's own view of its jobs."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def up(self) -> None:
        """Builds the images, starts all of it and waits until it is healthy."""
        self.engine.compose("build", seconds=1500)
        self.engine.compose("up", "--detach", seconds=300)
        self.until_healthy(OURS)
        until(lambda: "idle" in self.at("controller", "sinfo", "--noheader", "--format=%T"), self.logs)

    def down(self) -> None:
        """Takes all of it away, with what it kept."""
        self.engine.compose("kill", check=False)
        self.engine.compose("down", "--volumes", check=False, seconds=200)

    def containers(self) -> dict[str, dict[str, Any]]:
        """What the engine knows of every container, by service."""
        project = self.engine.environment["COMPOSE_PROJECT_NAME"]
        filters = [f"--filter=label=com.docker.compose.{each}" for each in (f"project={project}", "oneoff=False")]
        ids = self.engine.docker("ps", "--all", "--quiet", *filters).split()
        found = json.loads(self.engine.docker("inspect", *ids))
        return {each["Config"]["Labels"]["com.docker.compose.service"]: each for each in found}

    def inspect(self, service: str) -> dict[str, Any]:
        """What the engine knows of a container."""
        return self.containers()[service]

    def container(self, service: str) -> str:
        """The container's id."""
        return str(self.inspect(service)["Id"])

    def at(self, service: str, *command: str) -> str:
        """What a command says in a container."""
        return self.engine.docker("exec", self.container(service), *command)

    def operator(self, *arguments: str) -> str:
        """What the operator's command says; it must end well."""
        return self.engine.compose("run", "--rm", "-T", "operator", *arguments, seconds=300)

    def secret(self, name: str) -> str:
        """A secret that the operator has."""
        command = ["run", "--rm", "-T", "--entrypoint", "cat", "operator", f"/run/farlab/{name}"]
        return self.engine.compose(*command).strip()

    def kill(self, service: str) -> None:
        """Kills the container's first process from outside: to the engine it is a crash, and it starts it again."""
        process = int(self.inspect(service)["State"]["Pid"])
        assert process > 1, f"{service} does not run"
        os.kill(process, signal.SIGKILL)

    def network(self, act: str, name: str, service: str, *more: str) -> None:
        """Connects a container to a network of the project, or disconnects it."""
        project = self.engine.environment["COMPOSE_PROJECT_NAME"]
        self.engine.docker("network", act, *more, f"{project}_{name}", self.container(service))

    def until_healthy(self, services: Sequence[str]) -> None:
        """Waits until the health checks of these containers say so."""

        def healthy() -> bool:
            found = self.containers()
            states = [found[each]["State"] for each in services]
            return all(s["Running"] and s.get("Health", {"Status": "healthy"})["Status"] == "healthy" for s in states)

        until(healthy, self.logs, HEALTHY_SECONDS)

    def jobs(self, account: str) -> list[str]:
        """The site's jobs of an account."""
        return self.at("controller", "squeue", "--noheader", f"--user={account}", "--format=%i").split()

    def logs(self) -> str:
        """The last that every container said."""
        return self.engine.compose("ps", check=False) + self.engine.compose("logs", "--tail=12", check=False)[-6000:]


class User:
    """A user of the hub and one named server."""

    def __init__(self, hub: Hub, name: str, server: str) -> None:
        self._hub = hub
        self.name, self.server = name, server

    async def start(self) -> None:
        """Presses Start."""
        options = {**OPTIONS, "account": ACCOUNTS[self.name]}
        await self._hub.call("POST", server_path(self.name, self.server), {"user_options": options}, (201, 202))

    async def stop(self) -> None:
        """Presses Stop; returns when the server is gone."""
        await self._hub.call("DELETE", server_path(self.name, self.server), {"remove": True}, (202, 204))
        await self._until(lambda servers: self.server not in servers, 60)

    async def until_ready(self, seconds: float = 120) -> None:
        """Waits until the hub says that the server is ready."""
        await self._until(lambda servers: bool(servers.get(self.server, {}).get("ready")), seconds)

    async def ready(self) -> bool:
        """Whether the hub says that the server is ready."""
        model = await self._hub.call("GET", f"hub/api/users/{self.name}")
        return bool(model["servers"].get(self.server, {}).get("ready"))

    async def server_answers(self) -> bool:
        """Whether the user's JupyterLab answers through proxy and tunnel."""
        try:
            await self._hub.call("GET", f"user/{self.name}/{self.server}/api/status")
        except TROUBLE:
            return False
        return True

    async def until_server_answers(self, seconds: float = 90) -> float:
        """Waits until it does; the seconds that took."""
        begun = time.monotonic()
        while not await self.server_answers():
            assert time.monotonic() < begun + seconds, f"{self.name}'s server did not answer for {seconds} s"
            await asyncio.sleep(0.1)
        return time.monotonic() - begun

    async def _until(self, holds: Callable[[dict[str, Any]], bool], seconds: float) -> None:
        ends = time.monotonic() + seconds
        model: Any = None
        while time.monotonic() < ends:
            with contextlib.suppress(*TROUBLE):  # a hub that starts again
                model = await self._hub.call("GET", f"hub/api/users/{self.name}")
                if holds(model["servers"] or {}):
                    return
            await asyncio.sleep(0.1)
        raise AssertionError(f"not within {seconds} s: {msgspec.json.encode(model).decode()[:2000]}")
