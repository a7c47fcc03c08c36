"""The state folder of `farlab up`: its lock, ports, secrets, keys and the broker's files. Starts nothing."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

from schemas.base import SystemName
from services._runtime.configuration import ConfigurationError
from services._runtime.settings import Configuration
from services._runtime.systems import System
from services._runtime.vault import make_keys, write_secret_file
from services.operator_cli.nats_config import make_nkeys, server_configuration

HOST = "127.0.0.1"


class Ports(msgspec.Struct, kw_only=True):
    """The ports an installation keeps over restarts; the dictionaries are by system."""

    nats: int = 0
    hub: int = 0
    hub_api: int = 0
    proxy_api: int = 0
    launcher: int = 0
    identity_provider: int = 0
    remote_forward: dict[str, int] = {}
    login: dict[str, int] = {}
    site: dict[str, int] = {}


class StateFolder:
    """One installation's folder; `lock` makes sure that only one `farlab up` uses it."""

    def __init__(self, folder: Path) -> None:
        """Makes the folder. Raises ConfigurationError when it cannot be made."""
        self.path = folder.absolute()
        try:
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise ConfigurationError(
                f"{self.path}: cannot be made: {error.strerror}; name another folder with --state"
            ) from None
        self.configuration_file = self.path / "farlab.toml"

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Raises ConfigurationError when another `farlab up` uses the folder."""
        try:
            file = (self.path / "lock").open("a")
        except OSError as error:
            raise ConfigurationError(
                f"{self.path}: cannot be written: {error.strerror}; name another folder with --state"
            ) from None
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ConfigurationError(
                    f"{self.path}: another `farlab up` uses this folder; stop it, or name another with --state"
                ) from None
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            yield

    def ports(
        self, systems: Mapping[SystemName, System], public_port: int, emulated_clouds: Sequence[SystemName] = ()
    ) -> Ports:
        """The ports of an earlier start where they are free, else free ones; kept for the next.

        Raises ConfigurationError when `public_port` is taken; 0 leaves the choice here.
        """
        file = self.path / "ports.json"
        try:
            earlier = msgspec.json.decode(file.read_bytes(), type=Ports)
        except (OSError, msgspec.MsgspecError):
            earlier = Ports()
        with contextlib.ExitStack() as held:
            ports = Ports(
                hub=_free(held, public_port or earlier.hub),
                nats=_free(held, earlier.nats),
                hub_api=_free(held, earlier.hub_api),
                proxy_api=_free(held, earlier.proxy_api),
                launcher=_free(held, earlier.launcher),
                identity_provider=_free(held, earlier.identity_provider),
            )
            if public_port and ports.hub != public_port:
                raise ConfigurationError(
                    f"port {public_port} is taken by another program; name another with --port, such as --port 0"
                )
            for name, system in systems.items():
                if system.emulated is not None:
                    login = system.emulated.login_node
                    ports.remote_forward[name] = _free(held, earlier.remote_forward.get(name, 0), login)
                    ports.login[name] = _free(held, earlier.login.get(name, 0), login)
                    ports.site[name] = _free(held, earlier.site.get(name, 0))
            for cloud in emulated_clouds:
                ports.site[cloud] = _free(held, earlier.site.get(cloud, 0))
        file.write_bytes(msgspec.json.encode(ports))
        return ports

    def secret(self, name: str) -> str:
        """A secret in a file of its own, 0600, made at the first start: passwords and tokens of this installation."""
        file = self.path / name
        if not file.exists():
            write_secret_file(file, secrets.token_hex(6 if name == "password" else 32).encode())
        return file.read_text()

    def make_keys(self) -> None:
        """Makes every key that is missing: of services, of the launcher's delegation, of the tunneler's SSH."""
        make_keys(self.path / "keys")
        _key_pair(
            self.path / "keys" / "id_ed25519",
            "id_ed25519.pub",
            serialization.PrivateFormat.OpenSSH,
            (serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH),
        )
        _key_pair(
            self.path / "keys" / "delegation.pem",
            "delegation.pub.pem",
            serialization.PrivateFormat.PKCS8,
            (serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo),
        )

    def write_nats_configuration(self, configuration: Configuration, ports: Ports) -> Path:
        """Writes `nats.conf` with a signed-in user per service; returns the file."""
        file = self.path / "nats" / "nats.conf"
        file.parent.mkdir(exist_ok=True, mode=0o700)
        text = server_configuration(
            subjects=configuration.subjects,
            hub=configuration.shared.installation.hub,
            public_keys=make_nkeys(self.path / "nkeys"),
            host=HOST,
            port=ports.nats,
            folder=file.parent,
            sandbox=configuration.shared.installation.sandbox,
        )
        write_secret_file(file, text.encode())
        return file


def _key_pair(
    file: Path,
    public_name: str,
    private_format: serialization.PrivateFormat,
    public_format: tuple[serialization.Encoding, serialization.PublicFormat],
) -> None:
    """An Ed25519 key in a file, 0600, with its public half beside it; one that is there stays."""
    if not file.exists():
        private = ed25519.Ed25519PrivateKey.generate()
        file.with_name(public_name).write_bytes(private.public_key().public_bytes(*public_format) + b"\n")
        write_secret_file(
            file,
            private.private_bytes(serialization.Encoding.PEM, private_format, serialization.NoEncryption()),
        )


def _free(held: contextlib.ExitStack, wanted: int, host: str = HOST) -> int:
    """`wanted` if it is free, else a free port. Held until `held` ends, so that no port is given twice."""
    trouble = ""
    for port in (wanted, 0):
        probe = socket.socket()
        held.callback(probe.close)
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            trouble = error.strerror or str(error)
            continue
        return int(probe.getsockname()[1])
    raise ConfigurationError(f"no port of {host} can be taken: {trouble}; is the address one of this machine?")
