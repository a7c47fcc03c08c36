"""`farlab up`: the whole system on one machine, from broker to emulated supercomputer. Decides no configuration."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import aiohttp

import services.hub_bridge
from services._runtime import topology
from services._runtime.connection import connect
from services._runtime.settings import Configuration
from services.operator_cli.effective import EMULATORS, EmulatedSite, write_configuration, write_emulators
from services.operator_cli.emulated_clouds import emulated_clouds, write_clouds
from services.operator_cli.emulated_sign_in import emulated, write_identity_provider
from services.operator_cli.state_folder import Ports, StateFolder
from services.operator_cli.supervisor import Child, Ready, Say, Supervisor


class Installation:
    """A running installation: start it, use it, stop it."""

    def __init__(self, source: Configuration, state: StateFolder, *, public_port: int, say: Say) -> None:
        self._source = source
        self._state = state
        self._say = say
        self._public_port = public_port
        self.configuration = source
        self.ports: Ports | None = None
        self.supervisor = Supervisor(state.path / "logs", say)

    @property
    def url(self) -> str:
        """Where users go."""
        return f"http://127.0.0.1:{self.ports.hub}/" if self.ports else ""

    async def start(self) -> None:
        """Starts everything in order. Raises NotReadyError or ConfigurationError; then `stop` cleans up."""
        self._state.make_keys()
        ports = self.ports = self._state.ports(
            self._source.systems, self._public_port, list(emulated_clouds(self._source))
        )
        await self._start_broker(ports)
        sites = await self._start_emulators(ports)
        self.configuration = write_configuration(self._state, self._source, ports, sites)
        await self._apply_topology()
        await self.supervisor.start_saying(self._proxy(ports))
        services = [self._service(name, ports) for name in services_of(self._source)]
        await self.supervisor.start_all([*services, self._hub(ports)])

    async def stop(self) -> None:
        """Stops everything in reverse order."""
        await self.supervisor.stop()

    async def _start_broker(self, ports: Ports) -> None:
        file = self._state.write_nats_configuration(self._source, ports)
        command = [str(Path(sys.executable).parent / "nats-server"), "-c", str(file)]
        await self.supervisor.start_saying(Child(name="nats", command=command, ready=_listens(ports.nats)))

    async def _start_emulators(self, ports: Ports) -> dict[str, EmulatedSite]:
        sites = write_emulators(self._state, self._source, ports)
        children = []
        if (provider := emulated(self._source)) is not None:
            command, told = write_identity_provider(self._state, provider, ports)
            children.append(Child(name="identity_provider", command=command, ready=_exists(told)))
        for name, site in sites.items():
            for part, module in EMULATORS:
                if (file := site.folder / f"{part}.toml").exists():
                    site.told(part).unlink(missing_ok=True)
                    command = [sys.executable, "-m", module, "--config", str(file)]
                    children.append(Child(name=f"{name}-{part}", command=command, ready=_exists(site.told(part))))
        for name, (file, told) in write_clouds(self._state, self._source, ports).items():
            told.unlink(missing_ok=True)
            command = [sys.executable, "-m", "emulators.cluster", "--config", str(file)]
            children.append(Child(name=f"{name}-cluster", command=command, ready=_exists(told)))
        await self.supervisor.start_all(children)
        return sites

    async def _apply_topology(self) -> None:
        broker = await connect(self.configuration, "operator-cli")
        try:
            await topology.apply(broker.log.js, self.configuration.subjects, self.configuration.shared.retention)
        finally:
            await broker.close()

    def _service(self, name: str, ports: Ports) -> Child:
        port_file = self._state.path / f"{name}.port"
        port_file.unlink(missing_ok=True)
        command = [
            *(sys.executable, "-m", f"services.{name}", "--config", str(self._state.configuration_file)),
            *("--port", str(ports.launcher if name == "hpc_launcher" else 0), "--port-file", str(port_file)),
        ]
        return Child(name=name, command=command, ready=_ready_at(port_file))

    def _proxy(self, ports: Ports) -> Child:
        """The proxy is a process of its own, so that a hub that restarts disturbs nobody.

        A proxy that was started again knows no route until the hub looks: it is told to at once.
        """
        command = [
            *(sys.executable, "-m", "services.hub_bridge.proxy", "--log-level", "error"),
            *("--ip", "127.0.0.1", "--port", str(ports.hub)),
            *("--api-ip", "127.0.0.1", "--api-port", str(ports.proxy_api)),
            *("--error-target", f"http://127.0.0.1:{ports.hub_api}/hub/error"),
        ]
        return Child(
            name="proxy",
            command=command,
            ready=_listens(ports.proxy_api),
            environment={"CONFIGPROXY_AUTH_TOKEN": self._state.secret("proxy.token")},
            restarted=_hub_sets_routes(ports, self._state.secret("operator.token")),
        )

    def _hub(self, ports: Ports) -> Child:
        config = Path(services.hub_bridge.__file__).with_name("jupyterhub_config.py")
        command = [sys.executable, "-m", "jupyterhub", "-f", str(config)]
        environment = {"FARLAB_CONFIG": str(self._state.configuration_file)}
        ready = _answers(f"http://127.0.0.1:{ports.hub}/hub/health")
        return Child(name="hub", command=command, ready=ready, environment=environment)


def services_of(configuration: Configuration) -> list[str]:
    """The services a configuration needs: a launcher only where it has something to launch on."""
    launchers = {"hpc_launcher": configuration.systems, "cloud_launcher": configuration.clouds}
    return ["accounts", *[name for name, served in launchers.items() if served], "tunneler"]


def _listens(port: int) -> Ready:
    async def ready() -> bool:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            return False
        writer.close()
        return True

    return ready


def _exists(file: Path) -> Ready:
    async def ready() -> bool:
        return file.exists()

    return ready


def _ready_at(port_file: Path) -> Ready:
    async def ready() -> bool:
        try:
            port = int(port_file.read_text())
        except (OSError, ValueError):
            return False
        return await _answers(f"http://127.0.0.1:{port}/readyz")()

    return ready


def _answers(url: str) -> Ready:
    async def ready() -> bool:
        try:
            async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2)) as http, http.get(url) as answer:
                return answer.status == 200
        except (aiohttp.ClientError, TimeoutError):
            return False

    return ready


def _hub_sets_routes(ports: Ports, token: str) -> Ready:
    async def told() -> bool:
        url, headers = f"http://127.0.0.1:{ports.hub_api}/hub/api/proxy", {"Authorization": f"token {token}"}
        try:
            async with (
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as http,
                http.post(url, headers=headers) as answer,
            ):
                return answer.status < 300
        except (aiohttp.ClientError, TimeoutError):
            return False

    return told


def left_over(folder: Path) -> Sequence[int]:
    """Processes that mention a state folder in their command line or work inside it: none, after a clean stop."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        if int(process.name) == os.getpid():
            continue
        try:
            words = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            where = str((process / "cwd").readlink())
        except OSError:
            continue
        if str(folder) in words or where.startswith(str(folder)):
            found.append(int(process.name))
    return found
