"""Runs inside the job: starts the user's server, says how far it is and where it listens. Submits and stops nothing.

Staged beside it: `farlab-secrets.json`, readable by its owner only; a requeued job reads it again, and it goes with the
job's directory. Written beside it: `farlab-progress.jsonl`, and `farlab-endpoint.json` once the server answers.
Standard library only; Python 3.9 or newer.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import hmac
import http.client
import json
import os
import random
import secrets
import signal
import socket
import subprocess
import sys
import time
from datetime import datetime, timezone
from pathlib import Path
from types import FrameType
from typing import Any
from urllib.parse import urlsplit

HERE = Path(__file__).resolve().parent
TRIES = 4
DIRECTORY_SECONDS = 2.0
DIRECTORY_MISSES = 2
LOOK_SECONDS = 0.1
HUB_LOOK_SECONDS = 1.0
GIVEN_UP = 75
SERVER_UMASK = 0o027
"""The job's own files are private; what the user makes in the server follows the usual habit of shared systems."""

Plan = dict[str, Any]


def complain(message: str) -> None:
    """A line for the job's error log."""
    sys.stderr.write(f"farlab: {message}\n")
    sys.stderr.flush()


def progress(percent: int, message: str) -> None:
    """Adds a line for the user; that it cannot be written (a full quota) must not end a start."""
    now = datetime.now(timezone.utc)  # noqa: UP017 - Python 3.9
    line = json.dumps({"percent": percent, "message": message, "at": now.isoformat()})
    try:
        with (HERE / "farlab-progress.jsonl").open("a", encoding="utf-8") as file:
            file.write(line + "\n")
    except OSError as error:
        complain(f"progress was not written: {error}")


def write_private(name: str, content: str) -> str:
    """Writes a file beside this one, whole or not at all, readable by its owner only; its path."""
    path = HERE / name
    temporary = HERE / (name + ".new")
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        file.write(content)
    temporary.replace(path)
    return str(path)


def free_port(address: str, low: int, high: int) -> int:
    """A port of the range that nobody listens on at the address, by chance so that jobs on one node seldom meet."""
    ports = list(range(low, high + 1))
    random.shuffle(ports)
    for port in ports:
        if is_free(address, port):
            return port
    raise SystemExit(f"farlab: no free port between {low} and {high} on {address}")


def is_free(address: str, port: int) -> bool:
    """Whether a server could listen there now. Raises SystemExit when the address is not this node's."""
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(place)
    except OSError as error:
        if error.errno in (errno.EADDRINUSE, errno.EACCES):
            return False
        raise SystemExit(f"farlab: cannot listen on {address}: {error}") from error
    return True


def server_environment(plan: Plan, address: str, port: int) -> dict[str, str]:
    """The environment of the user's server: the job's own, the hub's, and where to listen."""
    environment = {**os.environ, **plan["environment"]}
    certificates = plan.get("certificates")
    if certificates:
        environment["JUPYTERHUB_SSL_KEYFILE"] = write_private("farlab-server.key", certificates["keyfile"])
        environment["JUPYTERHUB_SSL_CERTFILE"] = write_private("farlab-server.crt", certificates["certfile"])
        environment["JUPYTERHUB_SSL_CLIENT_CA"] = write_private("farlab-ca.crt", certificates["cafile"])
    scheme = "https" if certificates else "http"
    environment["JUPYTERHUB_SERVICE_URL"] = f"{scheme}://{address}:{port}{plan['base_url']}"
    # Jupyter keeps the token in its runtime folder: ours is private and goes with the job's directory.
    runtime = HERE / "runtime"
    runtime.mkdir(mode=0o700, exist_ok=True)
    environment["JUPYTER_RUNTIME_DIR"] = str(runtime)
    environment["PYTHONPATH"] = os.pathsep.join([str(HERE), *filter(None, [environment.get("PYTHONPATH")])])
    return environment


def answers(plan: Plan, address: str, port: int) -> bool:
    """Whether our own server listens there: it accepts a connection and, without TLS, proves the session's key."""
    try:
        if plan.get("certificates"):
            with socket.create_connection((address, port), timeout=2):
                return True
        challenge = secrets.token_hex(16)
        with contextlib.closing(http.client.HTTPConnection(address, port, timeout=5)) as connection:
            connection.request("GET", f"{plan['base_url'].rstrip('/')}/farlab/proof?challenge={challenge}")
            answer = connection.getresponse()
            body = answer.read(4096)
        expected = hmac.new(bytes.fromhex(plan["proof_key"]), bytes.fromhex(challenge), "sha256").hexdigest()
        proof = str(json.loads(body.decode("utf-8", "replace"))["proof"])
        return answer.status == 200 and hmac.compare_digest(proof.encode(), expected.encode())
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError):
        return False


def directory_is_there() -> bool:
    """Whether the job still has its directory; an error is no proof that it has not."""
    try:
        HERE.stat()
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return True


def hub_answers(url: str) -> bool:
    """Whether the hub's REST API can be reached from here; what it says is the server's business."""
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        if parts.scheme == "https":
            with socket.create_connection((str(parts.hostname), port), timeout=5):
                return True
        # A way that a tunnel keeps open accepts connections while the hub is away: only an answer tells.
        with contextlib.closing(http.client.HTTPConnection(str(parts.hostname), port, timeout=5)) as connection:
            connection.request("GET", parts.path)
            return connection.getresponse().status < 500
    except (OSError, http.client.HTTPException):
        return False


def wait_for_hub(plan: Plan) -> None:
    """Waits as long as a server may take to start: JupyterHub's gives up after 46 s without its hub, and the job ends.

    A hub that is updated, or a tunnel that is rebuilt, may take longer.
    """
    url = plan["environment"].get("JUPYTERHUB_API_URL", "")
    until = time.monotonic() + plan["server_start_seconds"]
    told = False
    while url and directory_is_there() and time.monotonic() < until and not hub_answers(url):
        if not told:
            progress(28, "Waiting for JupyterHub, which does not answer from here")
            told = True
        time.sleep(HUB_LOOK_SECONDS)


class Server:
    """The user's server as a child process that gets our signals."""

    def __init__(self, plan: Plan, address: str, port: int) -> None:
        home = Path(os.environ.get("HOME") or "/nowhere")
        # Sites do not run jobs as root; containers and development machines do, where Jupyter asks to be told so.
        as_root = ["--allow-root"] if os.geteuid() == 0 else []
        self.process = subprocess.Popen(
            [sys.executable, *plan["arguments"], *as_root],
            env=server_environment(plan, address, port),
            cwd=home if home.is_dir() else HERE,
            stdin=subprocess.DEVNULL,
            umask=SERVER_UMASK,
        )

    def forward(self, number: int, _frame: FrameType | None) -> None:
        """Hands a signal on, so that the server can save what it has."""
        self.process.send_signal(number)

    def listening(self, plan: Plan, address: str, port: int) -> bool:
        """Waits until the server answers; False when it ended before that, or takes too long and is ended."""
        until = time.monotonic() + plan["server_start_seconds"]
        while self.process.poll() is None:
            if answers(plan, address, port):
                return True
            if time.monotonic() > until:
                complain(f"the server did not answer within {plan['server_start_seconds']:g} s")
                self.process.kill()
                self.process.wait()
                return False
            time.sleep(LOOK_SECONDS)
        return False

    def exit_code(self) -> int:
        """Waits for the end; as a shell counts it, where a signal is 128 and its number.

        Brings the end about when the job's directory was removed: UNICORE's embedded TSI forgets an aborted job
        without ending its processes.
        """
        missing = 0
        while True:
            try:
                code = self.process.wait(DIRECTORY_SECONDS)
                return code if code >= 0 else 128 - code
            except subprocess.TimeoutExpired:
                missing = 0 if directory_is_there() else missing + 1
            if missing == DIRECTORY_MISSES:
                self.process.terminate()
            elif missing > 2 * DIRECTORY_MISSES:
                self.process.kill()


def run(plan: Plan, address: str) -> int:
    """Starts the server until it listens, stays with it until it ends; the exit code."""
    low, high = plan["ports"]
    for tries_left in reversed(range(TRIES)):
        port = free_port(address, low, high)
        progress(30, "Starting JupyterLab")
        server = Server(plan, address, port)
        for each in (signal.SIGTERM, signal.SIGINT):
            signal.signal(each, server.forward)
        if server.listening(plan, address, port):
            progress(90, "JupyterLab accepts connections")
            write_private("farlab-endpoint.json", json.dumps({"host": address, "port": port}))
            return server.exit_code()
        code = server.exit_code()
        if code > 128 or is_free(address, port) or not tries_left:
            return code if code and code != 128 + signal.SIGKILL else GIVEN_UP
        progress(25, f"Port {port} was taken by another process; trying another")
    return GIVEN_UP


def main() -> int:
    """The command line: `--address` is what the server listens on, and how others reach this node."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--address", required=True)
    address = parser.parse_args().address
    os.umask(0o077)
    with contextlib.suppress(FileNotFoundError):
        (HERE / "farlab-endpoint.json").unlink()
    plan = json.loads((HERE / "farlab-secrets.json").read_text(encoding="utf-8"))
    progress(20, f"The job runs on {address}")
    wait_for_hub(plan)
    return run(plan, address)


if __name__ == "__main__":
    sys.exit(main())
