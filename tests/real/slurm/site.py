"""A Slurm site on this machine: munge, controller, one node and sshd, on free ports and in a folder of its own.

Needs root. It emulates nothing: the programs are Debian's.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import asyncssh

from services._runtime.systems import DirectReach, Job, Partition, SlurmSite, System
from services.hpc_launcher.login_node import farlab_slurm

TOOLS = ("slurmctld", "slurmd", "munged", "sshd", "sbatch", "useradd")
ACCOUNT = "farlabtest"
READY_SECONDS = 30.0


def missing() -> str:
    """Which tools or rights this machine lacks, or nothing."""
    if os.geteuid() != 0:
        return "root"
    return ", ".join(tool for tool in TOOLS if shutil.which(tool) is None)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


class RealSlurm:
    """The running site. `root` must be a folder that every account may pass through."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.ports = {name: free_port() for name in ("ctld", "slurmd", "sshd")}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.conf = root / "slurm.conf"
        self.socket = root / "munge" / "munge.sock"
        self.made_account = False

    def begin(self) -> None:
        """Starts everything and waits until the node is idle."""
        if not any(each.pw_name == ACCOUNT for each in pwd.getpwall()):
            subprocess.run(["useradd", "--create-home", "--shell", "/bin/bash", "--password", "*", ACCOUNT], check=True)
            self.made_account = True
        self._munge()
        self._slurm()
        self._sshd()
        self.until(lambda: b"idle" in self.slurm("sinfo", "--noheader", "--format=%T"))

    def end(self) -> None:
        """Ends everything, the jobs first."""
        with contextlib.suppress(subprocess.CalledProcessError, AssertionError):
            self.slurm("scancel", f"--user={ACCOUNT}")
            self.until(lambda: not self.slurm("squeue", "--noheader").strip())
        for process in reversed(self.processes.values()):
            process.terminate()
        for process in self.processes.values():
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if self.made_account:
            subprocess.run(["userdel", "--remove", ACCOUNT], stderr=subprocess.DEVNULL, check=False)

    def slurm(self, *command: str) -> bytes:
        """What one of Slurm's commands says to root."""
        environment = {**os.environ, "SLURM_CONF": str(self.conf)}
        return subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True, timeout=30).stdout

    def until(self, holds: object) -> None:
        """Waits for a condition."""
        ends = time.monotonic() + READY_SECONDS
        while True:
            with contextlib.suppress(subprocess.CalledProcessError):
                if holds():  # type: ignore[operator]
                    return
            assert time.monotonic() < ends, "the Slurm site is not ready: " + self.logs()
            time.sleep(0.1)

    def logs(self) -> str:
        """The last lines that its programs wrote."""
        return "\n".join(each.read_text(errors="replace")[-1500:] for each in self.root.glob("*.log"))

    def run(self, name: str, command: list[str]) -> None:
        """Starts a program of the site in the foreground of its own."""
        with (self.root / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "SLURM_CONF": str(self.conf)},
            )

    def stop(self, name: str) -> None:
        """Ends one program in order."""
        process = self.processes.pop(name)
        process.terminate()
        process.wait()

    def kill_connections(self) -> None:
        """Kills what serves the open SSH connections, as a reboot of the login node does."""
        command = ["pgrep", "--parent", str(self.processes["sshd"].pid)]
        for each in subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout.split():
            os.kill(int(each), 9)

    def controller(self) -> None:
        """Starts the controller."""
        self.run("slurmctld", ["slurmctld", "-D", "-f", str(self.conf)])

    def _munge(self) -> None:
        folder = self.root / "munge"
        folder.mkdir(mode=0o755)
        key = folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
        self.run(
            "munged",
            [
                "munged",
                "--foreground",
                "--force",
                f"--socket={self.socket}",
                f"--key-file={key}",
                f"--pid-file={folder}/pid",
                f"--log-file={folder}/log",
                f"--seed-file={folder}/seed",
            ],
        )
        self.until(self.socket.exists)

    def _slurm(self) -> None:
        for name in ("state", "spool"):
            (self.root / name).mkdir(mode=0o755)
        host = socket.gethostname().split(".")[0]
        lines = {
            "ClusterName": "farlab",
            "SlurmctldHost": f"{host}(127.0.0.1)",
            "SlurmUser": "root",
            "SlurmctldPort": self.ports["ctld"],
            "SlurmdPort": self.ports["slurmd"],
            "AuthType": "auth/munge",
            "AuthInfo": f"socket={self.socket}",
            "StateSaveLocation": self.root / "state",
            "SlurmdSpoolDir": self.root / "spool",
            "SlurmctldPidFile": self.root / "ctld.pid",
            "SlurmdPidFile": self.root / "slurmd.pid",
            "ProctrackType": "proctrack/linuxproc",
            "TaskPlugin": "task/none",
            "JobAcctGatherType": "jobacct_gather/none",
            "AccountingStorageType": "accounting_storage/none",
            "SelectType": "select/cons_tres",
            "SelectTypeParameters": "CR_Core",
            "SchedulerParameters": "batch_sched_delay=0,sched_interval=1,bf_interval=1",
            "ReturnToService": 2,
            "MpiDefault": "none",
            "KillWait": 1,
            "EnforcePartLimits": "ALL",
            "NodeName": f"{host} NodeAddr=127.0.0.1 CPUs={os.cpu_count()} State=UNKNOWN",
            "PartitionName": f"batch Nodes={host} Default=YES MaxTime=60 State=UP OverSubscribe=FORCE:16",
        }
        self.conf.write_text("".join(f"{key}={value}\n" for key, value in lines.items()))
        self.controller()
        self.run("slurmd", ["slurmd", "-D", "-f", str(self.conf), "-N", host])

    def _sshd(self) -> None:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        host_key, service_key = (
            asyncssh.generate_private_key("ssh-ed25519"),
            asyncssh.generate_private_key("ssh-ed25519"),
        )
        host_key.write_private_key(str(self.root / "host_key"))
        (self.root / "host_key").chmod(0o600)
        service_key.write_private_key(str(self.root / "service_key"))
        (self.root / "service_key").chmod(0o600)
        public = host_key.export_public_key().decode().strip()
        (self.root / "known_hosts").write_text(f"[127.0.0.1]:{self.ports['sshd']} {public}\n")
        command = self.root / "farlab_slurm"
        shutil.copy(farlab_slurm.__file__, command)
        command.chmod(0o755)
        # The site's address of its own configuration; a real login node has it at /etc/slurm.
        forced = f"SLURM_CONF={self.conf} {command}"
        keys = self.root / "authorized_keys"
        keys.write_text(f'restrict,command="{forced}" {service_key.export_public_key().decode()}')
        config = self.root / "sshd_config"
        config.write_text(
            f"Port {self.ports['sshd']}\nListenAddress 127.0.0.1\nHostKey {self.root}/host_key\n"
            f"PidFile {self.root}/sshd.pid\nAuthorizedKeysFile {keys}\nPasswordAuthentication no\nUsePAM no\n"
            f"StrictModes no\nAllowUsers {ACCOUNT}\nMaxSessions 4\n"
        )
        self.run("sshd", [str(shutil.which("sshd")), "-D", "-e", "-f", str(config)])


def system(site: RealSlurm) -> System:
    """The site as an operator of Farlab describes it."""
    return System(
        title="Real Slurm",
        name="real",  # type: ignore[arg-type]
        site=SlurmSite(
            login_nodes=[f"127.0.0.1:{site.ports['sshd']}"],
            key_file=str(site.root / "service_key"),
            known_hosts_file=str(site.root / "known_hosts"),
            query_account=ACCOUNT,
            poll_seconds=0.1,
            requests_per_second=200.0,
        ),
        reach=DirectReach(networks=["127.0.0.0/8"]),
        job=Job(python=sys.executable),
        partitions={"batch": Partition()},
    )


@contextlib.contextmanager
def real_slurm(root: Path) -> Iterator[RealSlurm]:
    """The site, for as long as the context lasts."""
    site = RealSlurm(root)
    try:
        site.begin()
        yield site
    finally:
        site.end()
