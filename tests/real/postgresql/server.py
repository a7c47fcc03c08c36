"""PostgreSQL on a free port, in a folder of its own, as the user that Debian's package makes. Knows no JupyterHub."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import subprocess
from pathlib import Path

import psycopg

from tests.real.machine import free_port, until

USER = "postgres"
DATABASE = "hub"


def programs() -> Path | None:
    """The folder of the newest PostgreSQL of this machine."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda file: int(file.parts[4]))
    return found[-1].parent if found else None


def missing() -> str:
    """What this machine lacks, or nothing."""
    if os.geteuid() != 0:
        return "root"
    return "" if programs() and shutil.which("setpriv") else "postgresql"


class Postgres:
    """The server. `root` must be a folder that every account may pass through."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.port = free_port()
        self.password = secrets.token_hex(16)
        self._process: subprocess.Popen[bytes] | None = None
        who = pwd.getpwnam(USER)
        os.chown(root, who.pw_uid, who.pw_gid)
        word = root / "password"
        word.write_text(self.password)
        os.chown(word, who.pw_uid, who.pw_gid)
        method = ["--auth", "scram-sha-256", "--pwfile", str(word)]
        subprocess.run(self._command("initdb", "-D", f"{root}/data", *method), check=True, stdout=subprocess.DEVNULL)

    def url(self, database: str = DATABASE) -> str:
        """Its address with the password, as psycopg takes it."""
        return f"postgresql://{USER}:{self.password}@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        """Starts it, with an empty database when there is none; returns when it answers."""
        settings = [f"listen_addresses=127.0.0.1,port={self.port}", f"unix_socket_directories={self.root}", "fsync=off"]
        options = [word for each in ",".join(settings).split(",") for word in ("-c", each)]
        with (self.root / "log").open("ab") as log:
            self._process = subprocess.Popen(
                self._command("postgres", "-D", f"{self.root}/data", *options),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
            )
        until(self._answers, (self.root / "log").read_text)

    def stop(self) -> None:
        """Ends it and every connection at once, as a crash does; the next start recovers."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait(20)
            self._process = None

    def rows(self, question: str) -> list[tuple[object, ...]]:
        """What the database answers."""
        with psycopg.connect(self.url()) as connection:
            return connection.execute(question.encode()).fetchall()

    def _answers(self) -> bool:
        try:
            with psycopg.connect(self.url(USER), autocommit=True) as connection:
                known = connection.execute("select 1 from pg_database where datname = %s", (DATABASE,)).fetchone()
                if known is None:
                    connection.execute(f"create database {DATABASE}".encode())
        except psycopg.OperationalError:
            return False
        return True

    def _command(self, program: str, *arguments: str) -> list[str]:
        found = programs()
        assert found is not None
        return ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", str(found / program), *arguments]
