"""OpenSSH's sshd on a free port, with keys, options and host keys as a login node has them. Knows no Farlab."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import asyncssh

from tests.real.machine import free_port, until

HOST = "127.0.0.1"
TUNNELS = "farlabtunnel"
"""The account whose key opens tunnels and nothing else."""


class Sshd:
    """The server. `prefix` is the command that its own runs under, such as that of a `View`."""

    def __init__(
        self,
        root: Path,
        accounts: Sequence[str],
        *,
        settings: Mapping[str, str] | None = None,
        prefix: Sequence[str] = (),
    ) -> None:
        self.root = root
        self.port = free_port()
        self.settings = {"MaxSessions": "10", "LogLevel": "DEBUG1", **(settings or {})}
        self.known_hosts = root / "known_hosts"
        self._prefix = list(prefix)
        self._accounts = accounts
        self._server: subprocess.Popen[bytes] | None = None
        self._children: set[int] = set()
        (root / "keys").mkdir(mode=0o755)
        self.host_key = self.make_key("host_key")
        self.know(self.host_key)

    @property
    def node(self) -> str:
        """Host and port as configurations name them."""
        return f"{HOST}:{self.port}"

    def make_key(self, name: str) -> Path:
        """A new private key in a file of its owner; the public one is beside it."""
        key, file = asyncssh.generate_private_key("ssh-ed25519"), self.root / name
        key.write_private_key(str(file))
        file.chmod(0o600)
        key.write_public_key(f"{file}.pub")
        return file

    def know(self, *host_keys: Path) -> None:
        """Pins these host keys, as an operator does."""
        lines = [f"[{HOST}]:{self.port} {Path(f'{key}.pub').read_text().strip()}\n" for key in host_keys]
        self.known_hosts.write_text("".join(lines))

    def authorize(self, account: str, options: str, name: str) -> Path:
        """A key that lets in as the account with these options, in place of what did before; its file."""
        key = self.make_key(name)
        (self.root / "keys" / account).write_text(f"{options} {Path(f'{key}.pub').read_text()}")
        return key

    def start(self) -> None:
        """Starts it and waits for its banner."""
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        lines = {
            "Port": str(self.port),
            "ListenAddress": HOST,
            "HostKey": str(self.host_key),
            "PidFile": "none",
            "AuthorizedKeysFile": f"{self.root}/keys/%u",
            "AllowUsers": " ".join(self._accounts),
            "PasswordAuthentication": "no",
            "UsePAM": "no",
            "StrictModes": "no",
            **self.settings,
        }
        config = self.root / "sshd_config"
        config.write_text("".join(f"{name} {value}\n" for name, value in lines.items()))
        with (self.root / "sshd.log").open("ab") as log:
            self._server = subprocess.Popen(
                [*self._prefix, str(shutil.which("sshd")), "-D", "-e", "-f", str(config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
            )
        until(self._greets, self.log)

    def stop(self) -> None:
        """Ends the listener, and no connection, as a restart of the service does."""
        if self._server is not None:
            self._children |= self._connections()
            self._server.send_signal(signal.SIGCONT)
            self._server.terminate()
            self._server.wait()
            self._server = None

    def freeze(self) -> None:
        """Lets it take connections and say nothing, new ones and those there are, until `thaw`."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Lets it go on."""
        self._signal(signal.SIGCONT)

    def kill_connections(self) -> None:
        """Kills what serves the open connections, as a reboot of the login node does."""
        for each in self._connections() | self._children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(each, signal.SIGKILL)
        self._children.clear()

    def end(self) -> None:
        """Ends everything."""
        self.thaw()
        self.kill_connections()
        self.stop()
        self.kill_connections()

    def log(self) -> str:
        """The last of what it wrote."""
        return (self.root / "sshd.log").read_text(errors="replace")[-8000:]

    def times_logged(self, words: str) -> int:
        """How often it wrote these words."""
        return (self.root / "sshd.log").read_text(errors="replace").count(words)

    def _connections(self) -> set[int]:
        if self._server is None:
            return set()
        served = _children({self._server.pid})
        return served | _children(served)  # each has a child of its own that speaks to the other side

    def _signal(self, number: signal.Signals) -> None:
        if self._server is not None:
            for each in (self._server.pid, *self._connections()):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(each, number)

    def _greets(self) -> bool:
        with socket.create_connection((HOST, self.port), timeout=2) as connection:
            return connection.recv(4) == b"SSH-"


def _children(parents: set[int]) -> set[int]:
    if not parents:
        return set()
    command = ["pgrep", "--parent", ",".join(map(str, parents))]
    return {int(each) for each in subprocess.run(command, stdout=subprocess.PIPE, check=False).stdout.split()}
