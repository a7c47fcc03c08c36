"""The emulators as programs: a line when ready, a file with the ports, one line and a code when something is wrong."""

from __future__ import annotations

import json
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import asyncssh
import httpx
import pytest

from emulators.processes import started
from tests.emulators.calls import SLEEP, delegated, status
from tests.support.site import ADA, ISSUER, delegation_key

SITE, LOGIN = "emulators.unicore_site", "emulators.login_node"


def site_toml(folder: Path, more: str = "") -> str:
    if not (folder / "delegation.pem").exists():
        delegation_key(folder)
    return (
        f'folder = "{folder}/site"\nqueue_seconds = 0.0\n{more}\n[[users]]\ndn = "{ADA}"\nuids = ["ada1"]\n'
        f'[trusted]\n"{ISSUER}" = "{folder}/delegation.pub.pem"\n'
    )


def login_toml(folder: Path, more: str = "") -> str:
    key = asyncssh.generate_private_key("ssh-ed25519")
    return (
        f'folder = "{folder}/login"\nauthorized_keys = ["{key.export_public_key().decode().strip()}"]\n'
        f'networks = ["127.30.0.0/24"]\n{more}\n'
    )


@contextmanager
def program(module: str, folder: Path, toml: str) -> Iterator[tuple[subprocess.Popen[str], dict[str, str]]]:
    """A running emulator and what it wrote of its ports; killed in the end if it still runs."""
    file = folder / f"{module}.toml"
    file.write_text(toml)
    with subprocess.Popen(
        [sys.executable, "-m", module, "--config", str(file)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline().startswith("emulated ")
            yield process, json.loads(next(folder.glob("*/ports.json")).read_text())
        finally:
            process.kill()


@asynccontextmanager
async def ada(folder: Path, said: dict[str, str]) -> AsyncIterator[httpx.AsyncClient]:
    headers = {"Authorization": delegated(folder), "Accept": "application/json"}
    verify = ssl.create_default_context(cafile=said["ca"])
    async with httpx.AsyncClient(base_url=said["base_url"], headers=headers, verify=verify) as http:
        yield http


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_site_that_is_told_to_stop_leaves_no_process(tmp_path: Path, number: signal.Signals) -> None:
    with program(SITE, tmp_path, site_toml(tmp_path)) as (process, said):
        async with ada(tmp_path, said) as http:
            job = (await http.post("/jobs", json=SLEEP)).headers["Location"]
            await status(http, job, "RUNNING")
            [pid] = [each["pid"] for each in (await http.get(said["origin"] + "/emulator/jobs")).json()["jobs"]]
        process.send_signal(number)
        out, error = process.communicate(timeout=30)
        assert (process.returncode, out, error) == (0, "", "")
        assert started(pid) == ""
        assert not (tmp_path / "site" / "ports.json").exists()


async def test_a_site_that_crashes_after_a_creation_still_has_the_job(tmp_path: Path) -> None:
    with program(SITE, tmp_path, site_toml(tmp_path)) as (process, said):
        async with ada(tmp_path, said) as http:
            await http.post(said["origin"] + "/emulator/faults", json={"kind": "crash-after", "method": "POST"})
            with pytest.raises(httpx.TransportError):
                await http.post("/jobs", json=SLEEP | {"haveClientStageIn": "true"})
        assert process.wait(30) == -signal.SIGKILL
    with program(SITE, tmp_path, site_toml(tmp_path)) as (_, said):
        async with ada(tmp_path, said) as http:
            [job] = (await http.get("/jobs", params={"tags": "one"})).json()["jobs"]
            assert (await http.get(job)).json()["status"] == "READY"


def test_a_login_node_keeps_its_host_key_and_stops_in_order(tmp_path: Path) -> None:
    toml = login_toml(tmp_path)
    keys = []
    for _ in range(2):
        with program(LOGIN, tmp_path, toml) as (process, said):
            known = (tmp_path / "login" / "known_hosts").read_text()
            assert known.startswith(f"[{said['host']}]:{said['port']} ssh-ed25519 ")
            keys.append(known.split()[2])
            process.terminate()
            out, error = process.communicate(timeout=30)
            assert (process.returncode, out, error) == (0, "", "")
    assert keys[0] == keys[1]
    assert (tmp_path / "login" / "ssh_host_ed25519_key").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("module", "more", "words"),
    [
        (SITE, "port = 99999", "port"),
        (SITE, "compute_nodes = []", "compute_nodes"),
        (SITE, 'queues = "batch"', "queues"),
        (SITE, "colour = 1", "colour"),
        (SITE, "port = ", "Invalid value"),
        (SITE, '[trusted]\n"CN=X" = "/nowhere/key.pem"', "/nowhere/key.pem"),
        (LOGIN, "ports = [1, 2, 3]", "ports"),
        (LOGIN, 'listen = "here"', "listen"),
    ],
)
def test_a_wrong_configuration_is_one_line(tmp_path: Path, module: str, more: str, words: str) -> None:
    toml = (site_toml if module == SITE else login_toml)(tmp_path, more if "[" not in more[:1] else "")
    if more.startswith("["):
        toml = toml.partition("[trusted]")[0] + more
    error = refused(module, tmp_path, toml, 2)
    assert words in error
    assert str(tmp_path) in error


@pytest.mark.parametrize(("what", "wrong"), [("networks", '["127.30.0.0/99"]'), ("authorized_keys", '["ssh-rsa x"]')])
def test_networks_and_keys_are_looked_at_before_the_start(tmp_path: Path, what: str, wrong: str) -> None:
    lines = [line for line in login_toml(tmp_path).splitlines() if not line.startswith(what)]
    refused(LOGIN, tmp_path, "\n".join([*lines, f"{what} = {wrong}"]), 2)


def test_no_configuration_is_one_line(tmp_path: Path) -> None:
    for module in (SITE, LOGIN):
        command = [sys.executable, "-m", module, "--config", str(tmp_path / "none.toml")]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)


def test_a_port_that_is_taken_is_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for module, toml in ((SITE, site_toml), (LOGIN, login_toml)):
            assert "cannot start" in refused(module, tmp_path, toml(tmp_path, f"port = {port}"), 1)


def refused(module: str, folder: Path, toml: str, code: int) -> str:
    file = folder / "wrong.toml"
    file.write_text(toml)
    command = [sys.executable, "-m", module, "--config", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (code, "", 1), done.stderr
    return done.stderr
