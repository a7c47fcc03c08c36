"""One emulated cluster: listens, keeps its objects over a restart of its API server. What it answers is in `api`.

A stand-in for development and tests; it must never be used for production. Its objects live in memory only.
"""

from __future__ import annotations

import base64
import os
import ssl
from collections import Counter
from pathlib import Path

import msgspec
from aiohttp import web

from emulators import certificates
from emulators.cluster.api import Api
from emulators.cluster.configuration import ClusterConfiguration, User
from emulators.cluster.kinds import KINDS
from emulators.cluster.nodes import Nodes
from emulators.cluster.store import Store
from emulators.cluster.watches import Watches

MOST_BODY_BYTES = 3 * 1024 * 1024
ADMINISTRATOR = "emulated-administrator"


class Cluster:
    """One emulated cluster: `async with Cluster(configuration) as cluster: cluster.kubeconfig`."""

    def __init__(self, configuration: ClusterConfiguration) -> None:
        self.configuration = configuration
        self.folder = Path(configuration.folder).absolute()
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.kubeconfig = self.folder / "kubeconfig"
        self.nodes = Nodes(configuration, self.folder)
        self.store = Store(history=configuration.history, on_change=self.nodes.on_change)
        self.watches = Watches(self.store, configuration.bookmark_seconds)
        users = configuration.users or [User(name=ADMINISTRATOR, token=os.urandom(24).hex())]
        self._users = users
        self.api = Api(self.store, self.watches, self.nodes, users)
        self.ca_file, certificate, key = certificates.make(self.folder / "tls", configuration.host, configuration.name)
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._tls.load_cert_chain(certificate, key)
        self._port = configuration.port
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        """The API server's address."""
        return f"https://{self.configuration.host}:{self._port}"

    @property
    def requests(self) -> Counter[str]:
        """How many requests came, by verb and resource: `create pods`, `watch pods`."""
        return self.api.requests

    async def __aenter__(self) -> Cluster:
        self.nodes.begin(self.store)
        for name in dict.fromkeys(["default", *self.configuration.namespaces]):
            self.store.create(KINDS["namespaces"], "", {"metadata": {"name": name}, "status": {"phase": "Active"}})
        await self.serve()
        for user in self._users:
            self.write_kubeconfig(self.folder / f"{user.name}.kubeconfig", user)
        self.write_kubeconfig(self.kubeconfig, self._users[0])
        return self

    async def __aexit__(self, *_: object) -> None:
        self.kubeconfig.unlink(missing_ok=True)
        await self.shut()
        await self.nodes.close()

    async def serve(self) -> None:
        """Begins to listen; after `shut`, at the same port with the same objects. Raises OSError."""
        app = web.Application(client_max_size=MOST_BODY_BYTES)
        app.router.add_route("*", "/{path:.*}", self.api.answer)
        runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=0.2)
        await runner.setup()
        try:
            await web.TCPSite(runner, self.configuration.host, self._port, ssl_context=self._tls).start()
        except OSError:
            await runner.cleanup()
            raise
        self._runner = runner
        self._port = int(runner.addresses[0][1])

    async def shut(self) -> None:
        """Ends every connection and listens no more. Pods run on, as they do without an API server."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    def write_kubeconfig(self, file: Path, user: User) -> None:
        """A kubeconfig for one user. It is JSON, which is YAML too."""
        context = {"cluster": self.configuration.name, "user": user.name, "namespace": "default"}
        authority = base64.b64encode(self.ca_file.read_bytes()).decode()
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": self.configuration.name,
            "clusters": [
                {
                    "name": self.configuration.name,
                    "cluster": {"server": self.url, "certificate-authority-data": authority},
                }
            ],
            "contexts": [{"name": self.configuration.name, "context": context}],
            "users": [{"name": user.name, "user": {"token": user.token}}],
        }
        temporary = file.with_name(f"{file.name}.new")
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as out:
            out.write(msgspec.json.encode(content))
        temporary.replace(file)
