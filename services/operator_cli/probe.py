"""The probe: starts JupyterLab on a system as a user would, uses it, stops it, and looks for what is left. No mercy.

It speaks the hub's REST API and the server's own, through proxy and tunnel, as a browser does.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote

import aiohttp
import msgspec

from schemas.base import SystemName
from services._runtime.clouds import CloudSystem
from services._runtime.systems import Partition, System

START_SECONDS = 180.0
ANSWER_SECONDS = 30.0
STOP_SECONDS = 60.0
RUNTIME_MINUTES = 10

WHERE = """
import json, os
def lines(name):
    with open(f"/proc/net/{name}") as file:
        return [line.split() for line in file.readlines()[1:]]
parent = os.getppid()
inodes = set()
for fd in os.listdir(f"/proc/{parent}/fd"):
    try:
        target = os.readlink(f"/proc/{parent}/fd/{fd}")
    except OSError:
        continue
    if target.startswith("socket:["):
        inodes.add(target[8:-1])
def address(text):
    host, _, port = text.partition(":")
    return ".".join(str(int(host[i:i + 2], 16)) for i in (6, 4, 2, 0)), int(port, 16)
mine = [(address(l[1]), address(l[2]), l[3]) for l in lines("tcp") if l[9] in inodes]
listening = {local for local, _, state in mine if state == "0A" and local[0] != "127.0.0.1"}
peers = sorted({remote[0] for local, remote, state in mine if state == "01" and local in listening})
print(json.dumps({"sum": 6 * 7, "listening": sorted(host for host, _ in listening), "peers": peers,
                  "job": os.environ.get("SLURM_JOB_ID", "")}))
"""
"""Run in the kernel: whose connections reach the server, read from the server's own sockets."""


class Phase(msgspec.Struct, frozen=True, kw_only=True):
    """One step of the probe and how long it took."""

    name: str
    seconds: float
    detail: str = ""


class Report(msgspec.Struct, kw_only=True):
    """What the probe of one system found with which server. `problems` is empty when all is well."""

    system: str
    partition: str
    user: str
    server: str
    phases: list[Phase] = []
    problems: list[str] = []


class Way(msgspec.Struct, frozen=True, kw_only=True):
    """The way a server must be reached, where it is known: from which address, and on which of its own."""

    via: str = ""
    nodes: Sequence[str] = ()


class ProbeError(Exception):
    """A step of the probe failed; the text says which and why."""


class RefusedError(ProbeError):
    """The hub answered that what was asked for cannot be had (HTTP 4xx): asking again would not help."""


TROUBLE = (ProbeError, aiohttp.ClientError, TimeoutError, ValueError, KeyError)
"""What can go wrong with a call: the hub's or the server's answer, the connection, what an answer has in it."""


class Hub:
    """A hub's REST API under one token."""

    def __init__(self, url: str, token: str, http: aiohttp.ClientSession) -> None:
        self.url = url.rstrip("/") + "/"
        self._http = http
        self._headers = {"Authorization": f"token {token}"}

    async def call(self, method: str, path: str, body: object = None, expected: tuple[int, ...] = (200,)) -> Any:
        """The answer to a call, decoded. Raises ProbeError with the hub's own words."""
        async with self._http.request(method, self.url + path, json=body, headers=self._headers) as answer:
            text = await answer.text()
            if answer.status not in expected:
                kind = RefusedError if 400 <= answer.status < 500 else ProbeError
                raise kind(f"{method} /{path} answered {answer.status}: {_words(text, answer.reason)}")
            try:
                return json.loads(text) if text else None
            except ValueError:
                return text

    @asynccontextmanager
    async def stream(self, path: str) -> AsyncIterator[aiohttp.ClientResponse]:
        """A stream of server-sent events."""
        timeout = aiohttp.ClientTimeout(total=START_SECONDS)
        async with self._http.get(self.url + path, headers=self._headers, timeout=timeout) as answer:
            if answer.status != 200:
                raise ProbeError(f"GET /{path} answered {answer.status}: {(await answer.text())[:300]}")
            yield answer

    @asynccontextmanager
    async def websocket(self, path: str) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
        """A websocket through the proxy."""
        async with self._http.ws_connect(self.url + path, headers=self._headers) as socket:
            yield socket


def _words(text: str, reason: str | None) -> str:
    """What an answer says to people: the hub's message, or the status' own words in place of a page."""
    try:
        return str(json.loads(text)["message"])[:300]
    except (ValueError, KeyError, TypeError):
        return (reason or "no reason given") if text.lstrip().startswith("<") else text[:300]


def places(
    user: Mapping[str, Any],
    systems: Mapping[SystemName, System],
    clouds: Mapping[SystemName, CloudSystem] | None = None,
) -> dict[str, dict[str, Any]]:
    """The options of one start per system a user may use, from the user's table in `[accounts]`. Pure."""
    found: dict[str, dict[str, Any]] = {}
    for name, access in user.get("systems", {}).items():
        if (system := systems.get(SystemName(name))) is None:
            continue
        for account in access.get("accounts", []):
            for project, partitions in account["projects"].items():
                partition = (partitions or list(system.partitions))[0]
                found.setdefault(
                    name,
                    {
                        "system": name,
                        "account": account["name"],
                        "project": project,
                        "partition": partition,
                        "runtime_minutes": _minutes(system.partitions[partition]),
                    },
                )
    vos = user.get("vos", ["default"])
    for name, cloud in (clouds or {}).items():
        for vo in vos:
            if cloud.open_to(vo) and (flavours := cloud.flavours_for(vo)) and cloud.images_for(vo):
                found.setdefault(name, {"system": name, "vo": vo, "flavour": next(iter(flavours))})
    return found


def _minutes(partition: Partition) -> int:
    """A short runtime that the partition allows."""
    return min(max(RUNTIME_MINUTES, -(-partition.min_runtime_seconds // 60)), partition.max_runtime_seconds // 60)


async def probe(hub: Hub, user: str, options: dict[str, Any], way: Way, say: Callable[[str], None]) -> Report:
    """Starts, uses and stops one server that must be reached in this way. Problems are in the report, never raised."""
    name = f"check-{secrets.token_hex(4)}"
    report = Report(
        system=str(options["system"]),
        partition=str(options.get("partition") or options["flavour"]),
        user=user,
        server=name,
    )
    server = server_path(user, name)
    clock = time.perf_counter()

    def done(phase: str, detail: str = "") -> None:
        nonlocal clock
        now = time.perf_counter()
        report.phases.append(Phase(name=phase, seconds=round(now - clock, 3), detail=detail))
        say(f"{report.system}: {phase} {now - clock:.2f} s {detail}")
        clock = now

    started = False
    try:
        await hub.call("POST", server, {"user_options": options}, (201, 202))
        started = True
        done("accepted")
        async for message in _progress(hub, f"{server}/progress"):
            done(message)
        await _use(hub, f"user/{quote(user, safe='')}/{name}/", way, done)
    except TROUBLE as error:
        report.problems.append(told(error))
    finally:
        if started:
            try:
                await hub.call("DELETE", server, {"remove": True}, (202, 204))
                await _gone(hub, user, name)
                done("stopped")
            except TROUBLE as error:
                report.problems.append(f"not stopped: {told(error)}")
    return report


def server_path(user: str, server: str) -> str:
    """Where the hub's REST API has a user's server, whatever the names have in them. Pure."""
    whose = f"hub/api/users/{quote(user, safe='')}"
    return f"{whose}/servers/{quote(server, safe='')}" if server else f"{whose}/server"


def told(error: BaseException) -> str:
    """An error of a call in words."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return str(error) or type(error).__name__


async def _progress(hub: Hub, path: str) -> AsyncIterator[str]:
    """The messages of a start as they come, until it is ready. Raises ProbeError when it failed."""
    async with hub.stream(path) as stream:
        async for line in stream.content:
            if not line.startswith(b"data: "):
                continue
            event = json.loads(line[6:])
            if event.get("failed"):
                raise ProbeError(f"the start failed: {event.get('message', '')}")
            if event.get("ready"):
                yield "in the hub"
                return
            yield str(event.get("message", ""))
    raise ProbeError("the progress of the start ended before it was ready")


async def _use(hub: Hub, base: str, way: Way, done: Callable[[str, str], None]) -> None:
    async with asyncio.timeout(ANSWER_SECONDS):
        kernel = await hub.call("POST", f"{base}api/kernels", {}, (201,))
        done("kernel", "")
        async with hub.websocket(f"{base}api/kernels/{kernel['id']}/channels") as socket:
            answer = json.loads(await _execute(socket, WHERE))
    if answer["sum"] != 42:
        raise ProbeError(f"the kernel computed 6 * 7 = {answer['sum']}")
    if way.nodes and not set(answer["listening"]) <= set(way.nodes):
        raise ProbeError(f"the server listens on {answer['listening']}, not only on compute nodes")
    if way.via and answer["peers"] != [way.via]:
        raise ProbeError(f"the server is reached from {answer['peers']}, not only through the login node {way.via}")
    done("code ran", f"on {', '.join(answer['listening'])}, reached only from {', '.join(answer['peers'])}")


async def _execute(socket: aiohttp.ClientWebSocketResponse, code: str) -> str:
    """What code prints in the kernel (Jupyter messaging protocol 5)."""
    message_id = secrets.token_hex(8)
    header = {"msg_id": message_id, "msg_type": "execute_request", "version": "5.3", "username": "", "session": "probe"}
    content = {"code": code, "silent": False, "store_history": False, "allow_stdin": False}
    await socket.send_json(
        {"header": header, "parent_header": {}, "metadata": {}, "content": content, "channel": "shell"}
    )
    printed = ""
    async for frame in socket:
        if frame.type is not aiohttp.WSMsgType.TEXT:
            continue
        message = json.loads(frame.data)
        if message.get("parent_header", {}).get("msg_id") != message_id:
            continue
        match message["msg_type"]:
            case "stream":
                printed += message["content"]["text"]
            case "error":
                raise ProbeError(f"the kernel failed: {message['content']['ename']}: {message['content']['evalue']}")
            case "status" if message["content"]["execution_state"] == "idle":
                return printed
            case _:
                pass
    raise ProbeError("the kernel's websocket closed before the code had run")


async def _gone(hub: Hub, user: str, name: str) -> None:
    async with asyncio.timeout(STOP_SECONDS):
        while True:
            model = await hub.call("GET", f"hub/api/users/{quote(user, safe='')}")
            if name not in (model.get("servers") or {}):
                return
            await asyncio.sleep(0.1)
