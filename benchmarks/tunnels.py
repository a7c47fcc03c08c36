"""What a tunnel costs, against OpenSSH's own `ssh -L` over the same `sshd` in the same run.

Both lead to one program that sends or echoes. Throughput is measured in one stream and in eight at once, in turn, and
medians over rounds are taken. Then a tunneler's process opens a thousand tunnels, its connection is killed, and each of
the thousand answers again unasked. The tunneler is its own classes in a process of its own, on the loop that services
run on. Needs OpenSSH's client and server. Run: `python -m benchmarks.tunnels --json`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import getpass
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec
import uvloop

from schemas.base import SessionId
from services._runtime.systems import SshReach
from services.tunneler.listening import PortRange
from services.tunneler.port_forward import SshWays
from services.tunneler.ports import Target

HOST = "127.0.0.1"
CHUNK = bytes(1 << 20)
STREAMS = 8
READY_SECONDS = 20.0
AGAIN_SECONDS = 60.0


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        return int(taken.getsockname()[1])


# --- the far end ------------------------------------------------------------------------------------------------------


def serve_far_end() -> None:
    """Answers eight bytes with as many bytes as they say; prints its port. Runs until it is killed."""
    listening = socket.create_server((HOST, 0), backlog=2048)
    print(listening.getsockname()[1], flush=True)
    while True:
        connection, _ = listening.accept()
        threading.Thread(target=_answer, args=(connection,), daemon=True).start()


def _answer(connection: socket.socket) -> None:
    with connection, contextlib.suppress(OSError):
        while asked := connection.recv(8, socket.MSG_WAITALL):
            left = int.from_bytes(asked, "big")
            while left:
                connection.sendall(CHUNK[:left])
                left -= min(left, len(CHUNK))


def fetched(port: int, size: int) -> None:
    """Asks for so many bytes and takes them all."""
    buffer = memoryview(bytearray(1 << 20))
    with socket.create_connection((HOST, port), timeout=AGAIN_SECONDS) as connection:
        connection.sendall(size.to_bytes(8, "big"))
        while size:
            taken = connection.recv_into(buffer[: min(size, len(buffer))])
            if not taken:
                raise ConnectionError("the connection ended early")
            size -= taken


def mb_per_second(port: int, size: int, streams: int) -> float:
    """How fast so many streams together bring so many bytes."""
    begun = time.perf_counter()
    with ThreadPoolExecutor(streams) as pool:
        list(pool.map(lambda _: fetched(port, size // streams), range(streams)))
    return size / (time.perf_counter() - begun) / 1e6


# --- the tunneler in its process --------------------------------------------------------------------------------------


class Opened(msgspec.Struct):
    """What opening cost the tunneler's process."""

    ports: list[int]
    cpu_ms_each: float
    memory_mb: float


async def _tunneler(reach: SshReach, far_port: int) -> None:
    """Opens as many tunnels as each line on standard input says, and tells what it cost."""
    ways = SshWays(reach, PortRange(HOST, (0, 0)))
    await ways.start()
    await ways.ssh.get(READY_SECONDS)
    number = 0
    while line := await asyncio.to_thread(sys.stdin.readline):
        count, begun = int(line), time.process_time()
        ports = []
        for _ in range(count):
            number += 1
            way = await ways.open(SessionId(f"{number:026d}"), Target(HOST, far_port), 0)
            ports.append(way.address.port)
        spent = (time.process_time() - begun) * 1000 / count
        print(msgspec.json.encode(Opened(ports, spent, _memory_mb())).decode(), flush=True)
    await ways.close()


def _memory_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


class Tunneler:
    """The process, and what is asked of it."""

    def __init__(self, reach: SshReach, far_port: int) -> None:
        given = msgspec.json.encode(reach).decode()
        command = [sys.executable, "-m", "benchmarks.tunnels", "--tunneler", given, str(far_port)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )

    def open(self, count: int) -> Opened:
        """Opens so many."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{count}\n")
        self.process.stdin.flush()
        while not (line := self.process.stdout.readline()).startswith("{"):
            if not line:
                raise RuntimeError("the tunneler's process ended")
        return msgspec.json.decode(line, type=Opened)


# --- the world of one run ---------------------------------------------------------------------------------------------


@contextmanager
def process(command: list[str], **options: object) -> Iterator[subprocess.Popen[bytes]]:
    """A program that ends with the block."""
    running = subprocess.Popen(command, **options)  # type: ignore[call-overload]
    try:
        yield running
    finally:
        running.terminate()
        running.wait()


def until_it_listens(port: int) -> None:
    """Waits for a port."""
    until = time.monotonic() + READY_SECONDS
    while True:
        with contextlib.suppress(OSError), socket.create_connection((HOST, port), timeout=1):
            return
        if time.monotonic() > until:
            raise RuntimeError(f"nothing listens on port {port}")
        time.sleep(0.02)


def sshd(folder: Path, stack: ExitStack) -> tuple[int, subprocess.Popen[bytes]]:
    """A running OpenSSH server that takes one key and forwards."""
    port = free_port()
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    for name in ("host_key", "key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
    (folder / "authorized_keys").write_text((folder / "key.pub").read_text())
    kind, public = (folder / "host_key.pub").read_text().split()[:2]
    (folder / "known_hosts").write_text(f"[{HOST}]:{port} {kind} {public}\n")
    (folder / "sshd_config").write_text(
        f"Port {port}\nListenAddress {HOST}\nHostKey {folder}/host_key\nPidFile {folder}/pid\n"
        f"AuthorizedKeysFile {folder}/authorized_keys\nPasswordAuthentication no\nUsePAM no\nStrictModes no\n"
        "PermitRootLogin prohibit-password\nAllowTcpForwarding local\n"
    )
    server = shutil.which("sshd") or "/usr/sbin/sshd"
    running = stack.enter_context(process([server, "-D", "-f", str(folder / "sshd_config")], stderr=subprocess.DEVNULL))
    until_it_listens(port)
    return port, running


def openssh(folder: Path, ssh_port: int, far_port: int, stack: ExitStack) -> int:
    """The port of an `ssh -L` to the far end, by the cipher that the tunneler prefers."""
    port = free_port()
    options = [f"UserKnownHostsFile={folder}/known_hosts", "BatchMode=yes", "Ciphers=aes128-gcm@openssh.com"]
    command = ["ssh", "-N", "-F", "none", "-p", str(ssh_port), "-i", str(folder / "key")]
    command += [part for option in options for part in ("-o", option)]
    command += ["-L", f"{HOST}:{port}:{HOST}:{far_port}", f"{getpass.getuser()}@{HOST}"]
    stack.enter_context(process(command, stderr=subprocess.DEVNULL))
    until_it_listens(port)
    return port


def restored_seconds(ports: list[int], server: subprocess.Popen[bytes]) -> float:
    """From the death of the tunneler's connection until a byte came through each tunnel; all are asked at once."""
    for child in Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split():
        os.kill(int(child), signal.SIGKILL)
    begun = time.perf_counter()
    asyncio.run(_a_byte_through_each(ports))
    return time.perf_counter() - begun


async def _a_byte_through_each(ports: list[int]) -> None:
    async def one(port: int) -> None:
        until = time.monotonic() + AGAIN_SECONDS
        while time.monotonic() < until:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                reader, writer = await asyncio.open_connection(HOST, port)
                writer.write((1).to_bytes(8, "big"))
                await asyncio.wait_for(reader.readexactly(1), AGAIN_SECONDS)
                writer.close()
                return
            await asyncio.sleep(0.05)
        raise RuntimeError(f"the tunnel at port {port} did not come back")

    await asyncio.gather(*(one(port) for port in ports))


def measure(size: int, rounds: int, tunnels: int) -> dict[str, float]:
    """The figures of one run."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="farlab-tunnels-")))
        far = stack.enter_context(
            process([sys.executable, "-m", "benchmarks.tunnels", "--far-end"], stdout=subprocess.PIPE)
        )
        assert far.stdout is not None
        far_port = int(far.stdout.readline())
        ssh_port, server = sshd(folder, stack)
        reach = SshReach(
            login_nodes=[f"{HOST}:{ssh_port}"],
            user=getpass.getuser(),
            key_file=str(folder / "key"),
            known_hosts_file=str(folder / "known_hosts"),
            networks=["127.0.0.0/8"],
        )
        ours = Tunneler(reach, far_port)
        stack.callback(ours.process.wait)
        stack.callback(ours.process.terminate)
        first = ours.open(1)
        ways = {"ours": first.ports[0], "openssh": openssh(folder, ssh_port, far_port, stack), "direct": far_port}
        rates: dict[tuple[str, int], list[float]] = {}
        for _ in range(rounds):
            for streams in (1, STREAMS):
                for name, port in ways.items():
                    rates.setdefault((name, streams), []).append(mb_per_second(port, size, streams))
        middle = {key: statistics.median(each) for key, each in rates.items()}
        many = ours.open(tunnels)
        figures = {
            "ratio_one_stream": middle["ours", 1] / middle["openssh", 1],
            "ratio_many_streams": middle["ours", STREAMS] / middle["openssh", STREAMS],
            "ours_mb_per_second": middle["ours", 1],
            "openssh_mb_per_second": middle["openssh", 1],
            "direct_mb_per_second": middle["direct", 1],
            "ours_mb_per_second_many": middle["ours", STREAMS],
            "openssh_mb_per_second_many": middle["openssh", STREAMS],
            "tunnels": float(tunnels),
            "open_cpu_ms_each": many.cpu_ms_each,
            "memory_mb_before": first.memory_mb,
            "memory_mb_more": many.memory_mb - first.memory_mb,
            "restored_seconds": restored_seconds(many.ports, server),
        }
        return {name: round(value, 3) for name, value in figures.items()}


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=256, help="for each measurement")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tunnels", type=int, default=1000)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--far-end", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--tunneler", nargs=2, default=None, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.far_end:
        serve_far_end()
    elif options.tunneler is not None:
        reach = msgspec.json.decode(options.tunneler[0], type=SshReach)
        uvloop.run(_tunneler(reach, int(options.tunneler[1])))
    else:
        figures = measure(options.megabytes * 1_000_000, options.rounds, options.tunnels)
        print(json.dumps(figures) if options.json else "\n".join(f"{name}: {value}" for name, value in figures.items()))


if __name__ == "__main__":
    main()
