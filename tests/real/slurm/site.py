"""A Slurm site on this machine: munge, controller, one node, slurmrestd and sshd, in a folder of its own.

Needs root. It emulates nothing: the programs are Debian's.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from services._runtime.systems import DirectReach, Job, Partition, SlurmRest, SlurmSite, System
from services.hpc_launcher.login_node import farlab_slurm
from tests.real import machine
from tests.real.openssh.sshd import TUNNELS, Sshd

TOOLS = ("slurmctld", "slurmd", "munged", "sshd", "sbatch", "slurmrestd", "setpriv")
OTHER = os.environ.get("FARLAB_SLURM_ROOT", "")
"""Where another release of Debian is unpacked, whose programs the site runs; without it, this machine's."""
ACCOUNT = "farlabtest"
NODE = "127.30.0.42"
"""The address that servers on the compute node listen on."""


def missing() -> str:
    """Which tools or rights this machine lacks, or nothing."""
    jwt = any(Path(f"{OTHER}/usr/lib").glob("*/slurm-wlm/auth_jwt.so"))
    return machine.missing(*TOOLS) or ("" if jwt else "Slurm's plugin for JWT")


class RealSlurm:
    """The running site. `root` must be a folder that every account may pass through; the accounts are there."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.view = machine.View(root, [Path(sys.prefix), Path(sys.base_prefix)])
        self.jobs = self.view.make_home(ACCOUNT) / ".farlab" / "jobs"
        self.ports = {name: machine.free_port() for name in ("ctld", "slurmd", "slurmrestd")}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.conf = root / "slurm.conf"
        self.login_conf = root / "login.conf"
        self.sshd = Sshd(root, [ACCOUNT, TUNNELS], settings={"MaxSessions": "4"}, prefix=self.inside())
        self.jwt_key = root / "jwt_hs256.key"
        self.service_key, self.tunnel_key = root / "service_key", root / "tunnel_key"

    def inside(self, *command: str) -> list[str]:
        """The command that runs this one at the site."""
        return self.view.inside(*(["chroot", OTHER] if OTHER else []), *command)

    def begin(self) -> None:
        """Starts everything and waits until the node is idle."""
        if OTHER:
            self._enter_other()
        self.munge("munge")
        self._slurm()
        self.slurmrestd()
        command = self.root / "farlab_slurm"
        shutil.copy(farlab_slurm.__file__, command)
        command.chmod(0o755)
        # The site's address of its own configuration; a real login node has it at /etc/slurm.
        forced = f"SLURM_CONF={self.login_conf} {command}"
        self.sshd.authorize(ACCOUNT, f'restrict,command="{forced}"', self.service_key.name)
        self.sshd.authorize(TUNNELS, f'restrict,port-forwarding,permitopen="{NODE}:*"', self.tunnel_key.name)
        self.sshd.start()
        self.until_idle()

    def end(self) -> None:
        """Ends everything, the jobs first."""
        with contextlib.suppress(subprocess.CalledProcessError, AssertionError):
            self.slurm("scancel", f"--user={ACCOUNT}")
            machine.until(lambda: not self.slurm("squeue", "--noheader").strip(), self.logs)
        self.sshd.end()
        for name in reversed(list(self.processes)):
            self.stop(name)
        self.view.end()

    def slurm(self, *command: str) -> bytes:
        """What one of Slurm's commands says to root."""
        return subprocess.run(
            self.inside(*command),
            env={**os.environ, "SLURM_CONF": str(self.conf)},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            check=True,
            timeout=30,
            cwd="/",
        ).stdout

    def until_idle(self) -> None:
        """Waits until the node takes jobs."""
        machine.until(lambda: b"idle" in self.slurm("sinfo", "--noheader", "--format=%T"), self.logs)

    def logs(self) -> str:
        """The last lines that its programs wrote."""
        return "\n".join(each.read_text(errors="replace")[-1500:] for each in self.root.glob("*.log"))

    def run(self, name: str, *command: str) -> None:
        """Starts a program of the site in the foreground of its own."""
        with (self.root / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                self.inside(*command),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "SLURM_CONF": str(self.conf)},
                cwd="/",
            )

    def stop(self, name: str, by: signal.Signals = signal.SIGTERM) -> None:
        """Ends one program, in order or not."""
        process = self.processes.pop(name)
        process.send_signal(by)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def controller(self) -> None:
        """Starts the controller."""
        self.run("slurmctld", "slurmctld", "-D", "-f", str(self.conf))

    def slurmrestd(self) -> None:
        """Starts slurmrestd, as an account without rights, and waits until it listens."""
        port = self.ports["slurmrestd"]
        nobody = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "env", "SLURM_JWT=daemon"]
        slurmrestd = [
            "slurmrestd",
            "-f",
            str(self.conf),
            "-a",
            "rest_auth/jwt",
            "-s",
            "openapi/slurmctld" if OTHER else "openapi/v0.0.38",
            f"127.0.0.1:{port}",
        ]
        self.run("slurmrestd", *nobody, *slurmrestd)
        machine.until(lambda: socket.create_connection(("127.0.0.1", port)).close() is None, self.logs)

    def munge(self, name: str) -> Path:
        """Starts a munge with a key and socket of its own, those it had before if it had any; its socket."""
        folder = self.root / name
        folder.mkdir(mode=0o755, exist_ok=True)
        key, at = folder / "munge.key", folder / "munge.sock"
        if not key.exists():
            key.write_bytes(os.urandom(128))
            key.chmod(0o600)
        at.unlink(missing_ok=True)
        files = [f"--{what}-file={folder}/{what}" for what in ("pid", "log", "seed")]
        self.run(name, "munged", "--foreground", "--force", f"--socket={at}", f"--key-file={key}", *files)
        machine.until(at.exists, self.logs)
        return at

    def trust_on_login_node(self, munge: Path) -> None:
        """Lets Slurm's commands on the login node use this munge."""
        at = f"socket={self.root}/munge/munge.sock"
        self.login_conf.write_text(self.conf.read_text().replace(at, f"socket={munge}"))

    def _enter_other(self) -> None:
        """Lets the other release see this machine's files where the site has its own, and its accounts."""
        (self.root / "cgroup.conf").write_text("CgroupPlugin=disabled\n")
        for name in ("proc", "dev", "sys", "tmp", "run", "home", "etc/passwd", "etc/group", "etc/hosts"):
            if name.startswith("etc/"):
                Path(OTHER, name).touch()
            subprocess.run(self.view.inside("mount", "--rbind", f"/{name}", f"{OTHER}/{name}"), check=True)

    def _slurm(self) -> None:
        for name in ("state", "spool"):
            (self.root / name).mkdir(mode=0o755)
        self.jwt_key.touch(0o600)
        self.jwt_key.write_bytes(os.urandom(32))
        host = socket.gethostname().split(".")[0]
        munge = self.root / "munge" / "munge.sock"
        lines = {
            "ClusterName": "farlab",
            "SlurmctldHost": f"{host}(127.0.0.1)",
            "SlurmUser": "root",
            "SlurmctldPort": self.ports["ctld"],
            "SlurmdPort": self.ports["slurmd"],
            "AuthType": "auth/munge",
            "AuthInfo": f"socket={munge}",
            "AuthAltTypes": "auth/jwt",
            "AuthAltParameters": f"jwt_key={self.jwt_key}",
            "StateSaveLocation": self.root / "state",
            "SlurmdSpoolDir": self.root / "spool",
            "SlurmctldPidFile": self.root / "ctld.pid",
            "SlurmdPidFile": self.root / "slurmd.pid",
            "ProctrackType": "proctrack/linuxproc",
            "SelectType": "select/cons_tres",
            "SelectTypeParameters": "CR_Core",
            "SchedulerParameters": "batch_sched_delay=0,sched_interval=1,bf_interval=1",
            "ReturnToService": 2,
            "MessageTimeout": 5,
            "KillWait": 1,
            "EnforcePartLimits": "ALL",
            "NodeName": f"{host} NodeAddr=127.0.0.1 CPUs={os.cpu_count()} RealMemory=1024 State=UNKNOWN",
        }
        partition = f"Nodes={host} MaxTime=60 State=UP OverSubscribe=FORCE:16"
        partitions = (
            f"PartitionName=batch {partition} Default=YES\nPartitionName=members {partition} AllowAccounts=ztrain\n"
        )
        self.conf.write_text("".join(f"{key}={value}\n" for key, value in lines.items()) + partitions)
        self.trust_on_login_node(munge)
        self.controller()
        self.run("slurmd", "slurmd", "-D", "-f", str(self.conf), "-N", host)


def system(site: RealSlurm, way: str = "ssh") -> System:
    """The site as an operator of Farlab describes it, who has it asked by SSH alone or by slurmrestd too ("rest")."""
    rest = SlurmRest(url=f"http://127.0.0.1:{site.ports['slurmrestd']}", jwt_key_file=str(site.jwt_key))
    return System(
        title="Real Slurm",
        name="real",  # type: ignore[arg-type]
        site=SlurmSite(
            login_nodes=[site.sshd.node],
            key_file=str(site.service_key),
            known_hosts_file=str(site.sshd.known_hosts),
            query_account=ACCOUNT,
            rest=rest if way == "rest" else None,
            poll_seconds=0.1,
            requests_per_second=200.0,
        ),
        reach=DirectReach(networks=["127.0.0.0/8"]),
        job=Job(python=sys.executable),
        partitions={"batch": Partition(), "members": Partition()},
    )


@contextlib.contextmanager
def real_slurm(root: Path) -> Iterator[RealSlurm]:
    """The site, for as long as the context lasts."""
    with machine.account(ACCOUNT), machine.account(TUNNELS, "/usr/sbin/nologin"):
        site = RealSlurm(root)
        try:
            site.begin()
            yield site
        finally:
            site.end()
