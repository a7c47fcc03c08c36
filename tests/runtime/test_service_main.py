"""A service as a process: one line for what is wrong, ready when it says so, and a clean end."""

from __future__ import annotations

import asyncio
import http.client
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from services._runtime.configuration import ConfigurationError
from services._runtime.service import main, stamp_of
from services._runtime.settings import Configuration, load
from services._runtime.vault import KeyFileError, make_keys
from tests.support.broker import nats_server
from tests.support.running import ROOT

PROGRAM = """
import sys
from aiohttp import web
from services._runtime.service import main

class App:
    def __init__(self, configuration, broker):
        self.broken = []
    async def start(self):
        print("started", flush=True)
    async def close(self):
        print("closed", flush=True)
    def problems(self):
        return self.broken
    def routes(self):
        async def breaks(request):
            self.broken = ["the site does not answer"]
            return web.Response(text="broken")
        return [web.post("/break", breaks)]

sys.exit(main("tunneler", App, lambda configuration: None))
"""


def configured(folder: Path, nats_url: str, more: str = "") -> Path:
    (folder / "systems").mkdir()
    (folder / "systems" / "demo-hpc.toml").write_text((ROOT / "systems" / "demo-hpc.toml").read_text())
    file = folder / "farlab.toml"
    file.write_text(f'[nats]\nservers = ["{nats_url}"]\n{more}')
    return file


@contextmanager
def service(folder: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", PROGRAM, "--config", str(folder / "farlab.toml"), *arguments]
    with (
        (folder / "out").open("w") as out,
        (folder / "err").open("w") as err,
        subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=err, stdin=subprocess.DEVNULL, text=True) as process,
    ):
        try:
            yield process
        finally:
            process.kill()
            process.wait(10)


def until_written(process: subprocess.Popen[str], file: Path, words: str = "", seconds: float = 60.0) -> str:
    until = time.monotonic() + seconds
    while not file.exists() or words not in file.read_text():
        assert process.poll() is None, (file.parent / "err").read_text()
        assert time.monotonic() < until, f"nothing in {file}"
        time.sleep(0.02)
    return file.read_text()


def ask(port: int, method: str, path: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


async def test_a_service_is_ready_when_it_says_so_and_ends_cleanly(tmp_path: Path) -> None:
    async with nats_server(tmp_path) as server:
        configured(tmp_path, server.url)
        with service(tmp_path, "--port-file", str(tmp_path / "port")) as process:
            port = int(until_written(process, tmp_path / "port"))
            assert ask(port, "GET", "/healthz") == (200, b'{"status": "alive"}')
            assert ask(port, "GET", "/readyz")[0] == 200
            assert ask(port, "POST", "/break")[0] == 200
            status, body = ask(port, "GET", "/readyz")
            assert (status, json.loads(body)["problems"]) == (503, ["the site does not answer"])
            server.stop(signal.SIGKILL)
            until = time.monotonic() + 10
            while "the event log does not answer" not in json.loads(ask(port, "GET", "/readyz")[1])["problems"]:
                assert time.monotonic() < until
                await asyncio.sleep(0.02)
            assert ask(port, "GET", "/healthz")[0] == 200, "a broker that is away is no reason to restart the service"
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
    assert (tmp_path / "out").read_text().split() == ["started", "closed"]
    logged = [json.loads(line) for line in (tmp_path / "err").read_text().splitlines()]
    assert {line["service"] for line in logged} == {"tunneler"}
    assert {"ready", "stopping"} <= {line["event"] for line in logged}


def test_a_service_that_waits_for_its_broker_ends_at_once_when_told(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        configured(tmp_path, f"nats://127.0.0.1:{silent.getsockname()[1]}", "connect_seconds = 60.0\n")
        with service(tmp_path) as process:
            silent.settimeout(60)
            silent.accept()[0].close()
            process.send_signal(signal.SIGTERM)
            begun = time.monotonic()
            assert process.wait(20) == 0
            assert time.monotonic() - begun < 5
    assert "Traceback" not in (tmp_path / "err").read_text()


def never(configuration: object, broker: object) -> object:
    raise AssertionError("built in spite of a wrong configuration")


def failing(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What a service that cannot start prints: one line, and it leaves with 2."""
    assert main("accounts", never, lambda configuration: None, arguments) == 2  # type: ignore[arg-type]
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1
    return said[0]


def test_a_missing_or_wrong_configuration_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    missing = failing(capsys, "--config", str(tmp_path / "farlab.toml"))
    assert missing.startswith(f"farlab-accounts: {tmp_path / 'farlab.toml'}: no such file; name another")
    file = configured(tmp_path, "nats://127.0.0.1:1", 'server = "x"\n')
    assert 'nats.server is not a setting; did you mean "servers"?' in failing(capsys, "--config", str(file))


def test_a_wrong_table_is_said_before_the_broker_is_asked_for_anything(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def read_settings(configuration: Configuration) -> object:
        raise ConfigurationError(f"{configuration.file}: accounts.quota is not a setting")

    with socket.create_server(("127.0.0.1", 0)) as silent:
        file = configured(tmp_path, f"nats://127.0.0.1:{silent.getsockname()[1]}", "connect_seconds = 60.0\n")
        assert main("accounts", never, read_settings, ["--config", str(file)]) == 2  # type: ignore[arg-type]
        silent.settimeout(0)
        with pytest.raises(BlockingIOError):
            silent.accept()
    assert "accounts.quota is not a setting" in capsys.readouterr().err


def test_a_port_that_is_taken_is_one_line(tmp_path: Path) -> None:
    """In a process of its own, because a service sets up the logs of its whole process."""
    with socket.create_server(("127.0.0.1", 0)) as taken, socket.create_server(("127.0.0.1", 0)) as broker:
        configured(tmp_path, f"nats://127.0.0.1:{broker.getsockname()[1]}")
        greeting = b'INFO {"server_id":"x","version":"2.12.0","max_payload":1048576,"proto":1}\r\n'
        port = taken.getsockname()[1]
        with service(tmp_path, "--port", str(port)) as process:
            broker.settimeout(60)
            client, _ = broker.accept()
            with client:
                client.sendall(greeting)
                said = b""
                while b"PING\r\n" not in said:
                    said += client.recv(4096)
                client.sendall(b"PONG\r\n")
                assert process.wait(20) == 2
    error = (tmp_path / "err").read_text().strip().splitlines()
    assert len(error) == 1
    assert f"--port {port}: " in error[0]


def test_the_key_for_ids_comes_from_a_file_of_the_service(tmp_path: Path) -> None:
    configuration = load(configured(tmp_path, "nats://127.0.0.1:1"))
    with pytest.raises(KeyFileError, match=r"accounts\.ids"):
        stamp_of(configuration, "accounts")
    make_keys(configuration.keys_folder)
    assert stamp_of(configuration, "accounts").source == "farlab/accounts"
    (configuration.keys_folder / "accounts.ids").chmod(0o644)
    with pytest.raises(KeyFileError, match="chmod 600"):
        stamp_of(configuration, "accounts")
