"""What runs inside the job, run for real as a process, with a stand-in for the user's server."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import stat
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from services._launching.job_payload import farlab_job
from services.hpc_launcher import script
from tests.services.hpc_launcher import stand_in
from tests.services.hpc_launcher.stage import NODE, job_secrets
from tests.support.catalogue import system
from tests.support.samples import Story

PAYLOAD = Path(farlab_job.__file__).parent


def ports() -> tuple[int, int]:
    """A few ports that are free now."""
    with socket.socket() as probe:
        probe.bind((NODE, 0))
        port = int(probe.getsockname()[1])
    return (port, port)


def staged(folder: Path, between: tuple[int, int] | None = None, seconds: float = 20) -> Path:
    """A job's directory as the launcher stages it."""
    job = folder / "job"
    job.mkdir(mode=0o700)
    (folder / "home").mkdir()
    for name in ("farlab_job.py", "farlab_proof.py"):
        shutil.copy(PAYLOAD / name, job)
    here = system()
    settings = msgspec.structs.replace(here.job, ports=between or ports(), server_start_seconds=seconds)
    configured = msgspec.structs.replace(here, job=settings)
    for name, content in script.secret_files(configured, Story().requested(), job_secrets()).items():
        (job / name).touch(mode=0o600)
        (job / name).write_bytes(content)
    return job


@asynccontextmanager
async def running(job: Path, how: str = "serve", address: str = NODE, **environment: str) -> AsyncIterator[Process]:
    """The job as a process with a minimal environment, ended in the end."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(job / "farlab_job.py"),
        "--address",
        address,
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(job.parent / "home"),
            "PYTHONPATH": stand_in.install(job.parent),
            "STAND_IN": how,
            **environment,
        },
        stdout=PIPE,
        stderr=PIPE,
        stdin=asyncio.subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.communicate()


async def endpoint(job: Path) -> dict[str, Any]:
    """Waits for the endpoint file, which appears whole."""
    async with asyncio.timeout(20):
        while not (job / "farlab-endpoint.json").exists():
            await asyncio.sleep(0.02)
    said: dict[str, Any] = json.loads((job / "farlab-endpoint.json").read_text())
    return said


def messages(job: Path) -> list[str]:
    return [line.message for line in script.progress_lines((job / "farlab-progress.jsonl").read_bytes())[0]]


async def test_the_server_is_announced_once_it_answers_and_gets_the_end_signal(tmp_path: Path) -> None:
    job = staged(tmp_path)
    async with running(job) as process:
        said = await endpoint(job)
        assert said["host"] == NODE
        assert script.endpoint(json.dumps(said).encode(), (1024, 65535)) is not None
        async with httpx.AsyncClient(trust_env=False) as client:
            url = f"http://{NODE}:{said['port']}/user/ada/farlab/proof"
            answer = (await client.get(url, params={"challenge": "00" * 8})).json()
        assert answer["cwd"] == str(tmp_path / "home")
        assert messages(job) == [f"The job runs on {NODE}", "Starting JupyterLab", "JupyterLab accepts connections"]
        for name in ("farlab-endpoint.json", "farlab-progress.jsonl"):
            assert stat.S_IMODE((job / name).stat().st_mode) == 0o600
        process.send_signal(signal.SIGTERM)
        out, _ = await process.communicate()
        assert (process.returncode, out) == (0, b"terminated\n")


async def test_a_requeued_job_starts_again_and_does_not_announce_the_old_endpoint(tmp_path: Path) -> None:
    job = staged(tmp_path)
    (job / "farlab-endpoint.json").write_text('{"host": "old", "port": 1}')
    async with running(job, "hang") as process:
        async with asyncio.timeout(20):
            while "Starting JupyterLab" not in (messages(job) if (job / "farlab-progress.jsonl").exists() else []):
                await asyncio.sleep(0.02)
        assert not (job / "farlab-endpoint.json").exists()
        assert process.returncode is None


async def test_a_server_is_not_started_before_its_hub_can_be_reached(tmp_path: Path) -> None:
    job = staged(tmp_path)
    plan = json.loads((job / "farlab-secrets.json").read_text())
    asked: list[bytes] = []
    away = True

    async def hub(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readline())
        if not away:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
        writer.close()

    async with await asyncio.start_server(hub, NODE, 0) as server:
        port = server.sockets[0].getsockname()[1]
        plan["environment"]["JUPYTERHUB_API_URL"] = f"http://{NODE}:{port}/hub/api"
        (job / "farlab-secrets.json").write_text(json.dumps(plan))
        waiting = "Waiting for JupyterHub, which does not answer from here"
        async with running(job):
            async with asyncio.timeout(20):
                while len(asked) < 2:
                    await asyncio.sleep(0.02)
            assert messages(job) == [f"The job runs on {NODE}", waiting]
            away = False
            await endpoint(job)
            assert messages(job)[1:] == [waiting, "Starting JupyterLab", "JupyterLab accepts connections"]
    assert asked[-1].startswith(b"GET /hub/api HTTP")


@pytest.mark.parametrize(("how", "code"), [("fail", 3), ("hang", 75), ("foreign", 75)])
async def test_a_server_that_cannot_start_ends_the_job_with_a_code_and_is_never_announced(
    tmp_path: Path, how: str, code: int
) -> None:
    job = staged(tmp_path, seconds=1)
    async with running(job, how) as process:
        _, errors = await asyncio.wait_for(process.communicate(), 30)
        assert process.returncode == code
        assert (b"torch" in errors) == (how == "fail")
    assert not (job / "farlab-endpoint.json").exists()


async def test_the_servers_own_end_is_the_jobs(tmp_path: Path) -> None:
    job = staged(tmp_path)
    async with running(job, "quit") as process:
        await endpoint(job)
        await asyncio.wait_for(process.communicate(), 20)
        assert process.returncode == 0


async def test_progress_that_cannot_be_written_ends_no_start(tmp_path: Path) -> None:
    job = staged(tmp_path)
    (job / "farlab-progress.jsonl").mkdir()
    async with running(job):
        await endpoint(job)


async def test_taken_ports_are_passed_over_and_a_full_range_is_said(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind((NODE, 0))
        taken.listen()
        port = int(taken.getsockname()[1])
        job = staged(tmp_path, (port, port))
        async with running(job) as process:
            _, errors = await asyncio.wait_for(process.communicate(), 20)
        assert process.returncode == 1
        assert f"no free port between {port} and {port}".encode() in errors


async def test_an_address_of_another_machine_is_said(tmp_path: Path) -> None:
    job = staged(tmp_path)
    async with running(job, address="192.0.2.1") as process:
        _, errors = await asyncio.wait_for(process.communicate(), 20)
    assert b"cannot listen on 192.0.2.1" in errors


async def test_secrets_are_in_no_argument_and_no_output(tmp_path: Path) -> None:
    job = staged(tmp_path)
    async with running(job) as process:
        await endpoint(job)
        arguments = b""
        for entry in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                arguments += entry.read_bytes()
            except OSError:
                continue
        process.send_signal(signal.SIGTERM)
        out, errors = await process.communicate()
    for secret in (job_secrets().environment["JUPYTERHUB_API_TOKEN"], job_secrets().proof_key):
        assert secret.encode() not in arguments + out + errors
        assert secret not in (job / "farlab-progress.jsonl").read_text()


def test_certificates_become_private_files_and_only_their_names_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(farlab_job, "HERE", tmp_path)
    plan = {
        "environment": {"A": "1"},
        "certificates": {"keyfile": "KEY", "certfile": "CERT", "cafile": "CA"},
        "base_url": "/user/ada/",
    }
    environment = farlab_job.server_environment(plan, NODE, 5000)
    assert environment["JUPYTERHUB_SERVICE_URL"] == f"https://{NODE}:5000/user/ada/"
    key = Path(environment["JUPYTERHUB_SSL_KEYFILE"])
    assert (key.read_text(), stat.S_IMODE(key.stat().st_mode)) == ("KEY", 0o600)
    assert Path(environment["JUPYTERHUB_SSL_CERTFILE"]).read_text() == "CERT"
    assert Path(environment["JUPYTERHUB_SSL_CLIENT_CA"]).read_text() == "CA"


def test_the_payload_needs_nothing_but_an_old_python() -> None:
    import ast

    for name in ("farlab_job.py", "farlab_proof.py"):
        tree = ast.parse((PAYLOAD / name).read_text(), feature_version=(3, 9))
        imported = {
            (node.module if isinstance(node, ast.ImportFrom) else node.names[0].name).partition(".")[0]  # type: ignore[union-attr]
            for node in ast.walk(tree)
            if isinstance(node, ast.Import | ast.ImportFrom)
        }
        assert imported - set(sys.stdlib_module_names) <= {"tornado", "jupyter_server"}
        assert not any(isinstance(node, ast.Match) for node in ast.walk(tree))


async def test_a_job_whose_directory_was_removed_ends_its_server(tmp_path: Path) -> None:
    job = staged(tmp_path)
    async with running(job) as process:
        await endpoint(job)
        shutil.rmtree(job)
        async with asyncio.timeout(30):
            assert await process.wait() == 0, "the server was asked, not killed"
