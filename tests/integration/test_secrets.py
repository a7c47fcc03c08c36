"""No secret of a running installation is anywhere but in the files made for it: all of its places are searched."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest

from services.operator_cli.probe import Hub
from tests.support.running import RunningFarlab, running_farlab

pytestmark = pytest.mark.timeout(300)
OPTIONS = {
    "system": "demo-hpc",
    "account": "lovelace1",
    "project": "ztrain",
    "partition": "batch",
    "runtime_minutes": 10,
}
SECRET_VARIABLES = ("JUPYTERHUB_API_TOKEN", "JPY_API_TOKEN", "JUPYTERHUB_COOKIE_SECRET", "CONFIGPROXY_AUTH_TOKEN")


def processes() -> Iterator[Path]:
    """The folders of all processes that can be read."""
    for process in Path("/proc").glob("[0-9]*"):
        if (process / "cmdline").exists():
            yield process


def variables(process: Path) -> dict[str, str]:
    """A process's environment; empty when it is gone or not ours."""
    try:
        words = (process / "environ").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return {}
    return dict(word.split("=", 1) for word in words if "=" in word)


def secret_in(file: Path) -> bytes:
    """What is secret in a key's or token's file: the private number of a JWK, a middle line of a PEM, else all."""
    content = file.read_bytes()
    if file.suffix == ".json":
        return str(json.loads(content)["d"]).encode()
    if content.startswith(b"-----BEGIN"):
        lines = [line for line in content.splitlines() if b"-----" not in line]
        return lines[len(lines) // 2].strip()  # the first lines of keys of one kind are alike
    return content.strip()


def secrets_of(farlab: RunningFarlab) -> dict[str, bytes]:
    """Every secret the installation has, by where it was found: files of keys and tokens, and what its servers hold."""
    files = [
        *farlab.state.glob("*.token"),
        *farlab.state.glob("*.secret"),
        *farlab.state.glob("nkeys/*.nk"),
        *farlab.state.glob("keys/*"),
    ]
    found = {str(file.relative_to(farlab.state)): secret_in(file) for file in files if "pub" not in file.name}
    for process in processes():
        environment = variables(process)
        if str(farlab.state) in " ".join(environment.values()):
            for name in SECRET_VARIABLES:
                if environment.get(name):
                    found[f"{name} of {process.name}"] = environment[name].encode()
    return found


def holders(folder: Path, secret: bytes) -> set[str]:
    """The files under a folder that hold a secret."""
    return {
        str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file() and secret in file.read_bytes()
    }


async def test_secrets_stay_where_they_belong(tmp_path: Path) -> None:
    with running_farlab(tmp_path) as farlab:
        async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as http:
            hub = Hub(farlab.url, farlab.token, http)
            await hub.call("POST", "hub/api/users/ada/servers/one", {"user_options": OPTIONS}, (201, 202))
            async with asyncio.timeout(90):
                while not (await hub.call("GET", "hub/api/users/ada"))["servers"].get("one", {}).get("ready"):
                    await asyncio.sleep(0.1)
            secrets = secrets_of(farlab)
            await asyncio.to_thread(check_places, farlab, secrets)
            staged = [file for name, secret in secrets.items() if name.startswith("JUPYTERHUB_API_TOKEN")
                      for file in holders(farlab.state, secret)]  # fmt: skip
            await hub.call("DELETE", "hub/api/users/ada/servers/one", {"remove": True}, (202, 204))
            async with asyncio.timeout(60):
                while (await asyncio.to_thread(farlab.farlab, "sessions"))[0]["state"] != "ended":
                    await asyncio.sleep(0.2)
                while any((farlab.state / file).exists() for file in staged):
                    await asyncio.sleep(0.1)
            await asyncio.to_thread(check_places, farlab, secrets)


def check_places(farlab: RunningFarlab, secrets: dict[str, bytes]) -> None:
    """Searches files, command lines and what the operator's commands print."""
    kinds = {name.split(" ")[0].partition("/")[0] for name in secrets}
    assert {"operator.token", "proxy.token", "nkeys", "keys", "JUPYTERHUB_API_TOKEN"} <= kinds, kinds
    told = [farlab.printed(*words).encode() for words in (("sessions",), ("events",), ("timeline", "ada/one"))]
    command_lines = [(process / "cmdline").read_bytes() for process in processes()]
    for name, secret in secrets.items():
        assert len(secret) >= 16, name
        assert not any(secret in text for text in told), f"{name} in what a command prints"
        assert not any(secret in line for line in command_lines), f"{name} in a command line"
        for file in holders(farlab.state, secret):
            where = farlab.state / file
            assert where.stat().st_mode & 0o077 == 0, f"{name} in {file}, which others may read"
            own_file = file == name or (name.startswith("CONFIGPROXY") and file == "proxy.token")
            own_file = own_file or (name, file) == ("client.secret", "identity_provider/identity_provider.toml")
            staged = name.startswith("J") and file.startswith("sites/demo-hpc/site/")
            assert own_file or staged, f"{name} in {file}"
