"""A Docker Engine for tests: the one that runs, or a dockerd of our own in a folder. Pulls nothing where it is ours."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from tests.real.machine import until

ROOT = Path(__file__).parents[3]
TOOLS = ("dockerd", "docker", "ip", "iptables", "debootstrap")
POOL = "base=172.29.64.0/18,size=24"
BASE_IMAGE = "farlab-base"


class Engine(msgspec.Struct, frozen=True):
    """An engine that answers; `environment` is what leads docker and compose to it and to a base image."""

    environment: dict[str, str]

    def docker(self, *arguments: str, check: bool = True) -> str:
        """What a command of docker says."""
        return _run(["docker", *arguments], self.environment, check=check)

    def compose(self, *arguments: str, check: bool = True, seconds: float = 900.0) -> str:
        """What a command of compose says, of the project in COMPOSE_PROJECT_NAME."""
        return _run([*compose_command(), *arguments], self.environment, check=check, seconds=seconds)


def compose_command() -> list[str]:
    """Compose as it is installed here: docker's plug-in or the older program. Empty where it is not."""
    plugin = ["docker", "compose"]
    if shutil.which("docker") and not subprocess.run([*plugin, "version"], capture_output=True, check=False).returncode:
        return plugin
    return ["docker-compose"] if shutil.which("docker-compose") else []


def missing() -> str:
    """What this machine lacks for an engine, or nothing."""
    if not compose_command():
        return "docker compose"
    if _answers(dict(os.environ)):
        return ""
    if os.geteuid() != 0:
        return "a Docker Engine that answers, or root"
    return ", ".join(tool for tool in TOOLS if shutil.which(tool) is None)


def _answers(environment: dict[str, str]) -> bool:
    command = ["docker", "version", "--format", "{{.Server.Version}}"]
    return (
        bool(shutil.which("docker"))
        and not subprocess.run(command, env=environment, capture_output=True, check=False).returncode
    )


def _run(command: list[str], environment: dict[str, str], *, check: bool = True, seconds: float = 120.0) -> str:
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=seconds,
        check=False,
    )
    said = f"{done.stdout.decode(errors='replace')[-2000:]}{done.stderr.decode(errors='replace')[-4000:]}"
    assert not (check and done.returncode), f"{' '.join(command)} ended with {done.returncode}:\n{said}"
    return done.stdout.decode(errors="replace")


MARKS = [
    pytest.mark.real,
    pytest.mark.xdist_group("containers"),
    pytest.mark.timeout(2400),
    pytest.mark.skipif(
        bool(missing()) and not os.environ.get("FARLAB_NO_SKIPS"),
        reason=f"needs {missing()}; `.ci/run` takes them from Debian's docker.io, docker-compose and debootstrap",
    ),
]
"""Of every test that needs containers."""


@contextlib.contextmanager
def engine(folder: Path) -> Iterator[Engine]:
    """The engine that runs here, or one of our own with its data in the folder, for as long as the context lasts."""
    project = {"COMPOSE_PROJECT_NAME": f"farlabtest{secrets.token_hex(3)}", "DOCKER_BUILDKIT": "0"}
    if _answers(dict(os.environ)):
        yield Engine({**os.environ, **project})
        return
    bridge = f"farlab{secrets.token_hex(3)}"
    environment = {**os.environ, **project, "DOCKER_HOST": f"unix://{folder}/docker.sock", "BASE_IMAGE": BASE_IMAGE}
    _run(["ip", "link", "add", "name", bridge, "type", "bridge"], environment)
    _run(["ip", "address", "add", "172.29.63.1/24", "dev", bridge], environment)
    _run(["ip", "link", "set", bridge, "up"], environment)
    command = ["dockerd", "--host", environment["DOCKER_HOST"], "--bridge", bridge, "--default-address-pool", POOL]
    command += [f"--data-root={folder}/data", f"--exec-root={folder}/run", f"--pidfile={folder}/dockerd.pid"]
    with (folder / "dockerd.log").open("ab") as log:
        daemon = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/")
    try:
        until(lambda: _answers(environment) or daemon.poll() is not None, lambda: "dockerd starts and does not answer")
        if daemon.poll() is not None:
            said = (folder / "dockerd.log").read_text().splitlines()[-1:]
            pytest.skip(f"this machine's kernel lets no dockerd start: {said}")
        _run([str(ROOT / "containers" / "base-image.sh"), BASE_IMAGE], environment, seconds=600)
        yield Engine(environment)
    finally:
        daemon.terminate()
        try:
            daemon.wait(60)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()
        _run(["ip", "link", "delete", bridge], environment, check=False)
