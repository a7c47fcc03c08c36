#!/usr/bin/python3 -I
"""The forced command on a login node: a few verbs on the Farlab jobs of the account it runs as. Runs nothing else.

Needs Python 3.6 and Slurm's commands, nothing more. One JSON request comes on standard input, one JSON answer leaves
on standard output. No word of the request reaches a shell; what it names is checked against the patterns below.
"""

import base64
import errno
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from typing import Any

VERSION = 2
MOST_REQUEST_BYTES = 4 * 1024 * 1024
MOST_READ_BYTES = 1024 * 1024
COMMAND_SECONDS = 30
JOB = re.compile(r"[0-9]{1,10}")
FOLDER = re.compile(r"[a-z0-9]{8,64}-[A-Za-z0-9_]{8}")
SESSION = re.compile(r"[a-z0-9]{8,64}")
FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:/-]{0,254}")
MARKS = re.compile(r"[A-Za-z0-9_. -]{1,512}")
MARK = "farlab-installation-"
WRAPPER = "#!/bin/bash\nexec /bin/bash ./start.sh\n"
AWAY = (
    "unable to contact",
    "connection refused",
    "timed out",
    "unexpected message",
    "zero bytes",
    "not responding",
    "communication",
)
NEVER_ARRIVED = ("unable to contact", "connection refused")
UNTRUSTED = ("munge", "authentication", "credential")
UNKNOWN_JOB = "invalid job id"


class RefusedError(Exception):
    """The request cannot be done: a code for programs, and Slurm's or the system's own words."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code, self.reason = code, reason


def checked(pattern: Any, request: Any, key: str) -> str:
    """The request's value for the key, which the pattern allows."""
    value = request.get(key)
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise RefusedError("bad-request", "%s is not acceptable" % key)
    return value


def count(request: Any, key: str) -> int:
    """The request's positive number for the key."""
    value = request.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= 10**9:
        raise RefusedError("bad-request", "%s is not acceptable" % key)
    return value


def slurm(command: list[str], given: str = "", cwd: str = "/") -> str:
    """Standard output of one of Slurm's commands."""
    environment = {"PATH": "/usr/bin:/bin:/usr/local/bin:/opt/slurm/bin", "LC_ALL": "C"}
    if "SLURM_CONF" in os.environ:
        environment["SLURM_CONF"] = os.environ["SLURM_CONF"]
    try:
        done = subprocess.run(
            command,
            input=given.encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            timeout=COMMAND_SECONDS,
            env=environment,
            cwd=cwd,
        )
    except subprocess.TimeoutExpired:
        raise RefusedError("scheduler-away", "%s did not answer in %d s" % (command[0], COMMAND_SECONDS)) from None
    except FileNotFoundError:
        raise RefusedError("no-slurm", "%s is not installed on the login node" % command[0]) from None
    if done.returncode == 0:
        return done.stdout.decode(errors="replace")
    said = " ".join(done.stderr.decode(errors="replace").split())[:500]
    low = said.lower()
    if UNKNOWN_JOB in low:
        raise RefusedError("no-such-job", said)
    if any(words in low for words in UNTRUSTED):
        raise RefusedError("authentication", said)
    if any(words in low for words in AWAY):
        raise RefusedError("scheduler-away", said)
    raise RefusedError("refused", said or "%s ended with %d" % (command[0], done.returncode))


def jobs_folder() -> str:
    """Where the account's jobs have their folders."""
    path = os.path.join(os.path.expanduser("~"), ".farlab", "jobs")
    os.makedirs(path, mode=0o700, exist_ok=True)
    return path


def folder_of(request: Any) -> str:
    """The folder the request names."""
    return os.path.join(jobs_folder(), checked(FOLDER, request, "folder"))


def put(folder: str, files: Any) -> None:
    """Writes files whole or not at all, readable by the account alone."""
    if not isinstance(files, dict):
        raise RefusedError("bad-request", "files is not acceptable")
    for name, content in files.items():
        if not FILE.fullmatch(name):
            raise RefusedError("bad-request", "a file's name is not acceptable")
        descriptor, part = tempfile.mkstemp(dir=folder)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(base64.b64decode(content, validate=True))
            os.replace(part, os.path.join(folder, name))
        except BaseException:
            os.unlink(part)
            raise


def ours(request: Any) -> bool:
    """Whether Slurm knows the job and it is the one with this folder: numbers come round again."""
    job = checked(JOB, request, "job")
    folder = checked(FOLDER, request, "folder")
    try:
        comment = slurm(["squeue", "--noheader", "--states=all", "--jobs=" + job, "--format=%k"])
    except RefusedError as refusal:
        if refusal.code == "no-such-job":
            return False
        raise
    return comment.split()[-1:] == [folder]


def version(request: Any) -> dict[str, Any]:
    """What this is and, unless that does not matter, which Slurm it speaks to."""
    if request.get("slurm") is False:
        return {"version": VERSION}
    return {"version": VERSION, "slurm": slurm(["sbatch", "--version"]).strip()}


def prepare(request: Any) -> dict[str, Any]:
    """A folder with files, for a job that is made in another way."""
    folder = tempfile.mkdtemp(prefix=checked(SESSION, request, "session") + "-", dir=jobs_folder())
    try:
        put(folder, request.get("files"))
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return {"folder": os.path.basename(folder), "path": folder}


def create(request: Any) -> dict[str, Any]:
    """A held job with a folder of its own."""
    session = checked(SESSION, request, "session")
    marks = checked(MARKS, request, "marks")
    if not marks.startswith(MARK):
        raise RefusedError("bad-request", "marks is not acceptable")
    words = ["sbatch", "--hold", "--parsable", "--no-requeue", "--export=NONE", "--open-mode=append"]
    words += ["--output=stdout", "--error=stderr", "--job-name=farlab-" + session]
    for key in ("partition", "account", "qos", "reservation"):
        if request.get(key):
            words.append("--%s=%s" % (key, checked(WORD, request, key)))
    words += ["--nodes=%d" % count(request, "nodes"), "--time=%d" % count(request, "minutes")]
    if request.get("tasks"):
        words.append("--ntasks=%d" % count(request, "tasks"))
    if request.get("cpus_per_task"):
        words.append("--cpus-per-task=%d" % count(request, "cpus_per_task"))
    if request.get("gpus_per_node"):
        words.append("--gres=gpu:%d" % count(request, "gpus_per_node"))
    if request.get("memory_mib_per_node"):
        words.append("--mem=%dM" % count(request, "memory_mib_per_node"))
    prepared = prepare(request)
    folder, name = prepared["path"], prepared["folder"]
    try:
        words += ["--chdir=" + folder, "--comment=%s %s" % (marks, name)]
        job = slurm(words, WRAPPER, folder).strip().split(";")[0]
        if not JOB.fullmatch(job):
            raise RefusedError("unreadable", "sbatch answered with no number of a job")
    except RefusedError as refusal:
        # An answer that is lost may belong to a job that exists: its folder stays, for find and delete.
        if refusal.code != "scheduler-away" or any(words in refusal.reason.lower() for words in NEVER_ARRIVED):
            shutil.rmtree(folder, ignore_errors=True)
        raise
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return {"job": job, "folder": name}


def stage(request: Any) -> dict[str, Any]:
    """Files put into a job's folder."""
    put(folder_of(request), request.get("files"))
    return {}


def start(request: Any) -> dict[str, Any]:
    """A held job is released."""
    if not ours(request):
        raise RefusedError("no-such-job", "Slurm knows no such job")
    slurm(["scontrol", "release", request["job"]])
    return {}


def abort(request: Any) -> dict[str, Any]:
    """A job that is left is cancelled."""
    if ours(request):
        slurm(["scancel", request["job"]])
    return {}


def delete(request: Any) -> dict[str, Any]:
    """A job is cancelled and its folder removed."""
    abort(request)
    return remove(request)


def remove(request: Any) -> dict[str, Any]:
    """The folder of a job is removed."""
    shutil.rmtree(folder_of(request), ignore_errors=True)
    return {}


def plain(value: Any) -> Any:
    """A number or a state as Slurm 22.05 writes it, of the forms later versions have."""
    if isinstance(value, dict):
        if "return_code" in value:
            signal = value.get("signal") or {}
            return ((plain(value["return_code"]) or 0) << 8) + (plain(signal.get("id", signal.get("signal_id"))) or 0)
        return value.get("number") if value.get("set", True) else None
    if isinstance(value, list):
        return " ".join(str(each) for each in value)
    return value


def queue(request: Any) -> dict[str, Any]:
    """Every job with Farlab's marks that this account sees; of `jobs` it does not, what accounting remembers."""
    wanted = request.get("jobs", [])
    if not isinstance(wanted, list) or not all(isinstance(job, str) and JOB.fullmatch(job) for job in wanted):
        raise RefusedError("bad-request", "jobs is not acceptable")
    try:
        # Older ones tell all jobs with --json whatever is asked; newer ones leave out those that ended, and the hidden.
        said = json.loads(slurm(["squeue", "--json", "--all", "--states=all"]))
        listed = [each for each in said["jobs"] if str(each.get("comment") or "").startswith(MARK)]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise RefusedError("unreadable", "squeue --json did not answer with JSON that this program knows") from None
    if not listed and said.get("errors"):
        # With --json it says neither by its status nor in words what is wrong; without, it does.
        slurm(["squeue", "--noheader", "--format=%i"])
        raise RefusedError("scheduler-away", "squeue --json ended with an error")
    found = [
        {
            "job": str(each["job_id"]),
            "account": str(each.get("user_name") or ""),
            "comment": str(each["comment"]),
            "state": str(plain(each.get("job_state")) or ""),
            "reason": str(plain(each.get("state_reason")) or ""),
            "status": plain(each.get("exit_code")),
            "starts_at": plain(each.get("start_time")) or 0,
            "restarts": plain(each.get("restart_cnt")) or 0,
        }
        for each in listed
    ]
    missing = sorted(set(wanted) - {each["job"] for each in found})
    return {"jobs": found + (remembered(missing) if missing else [])}


def remembered(jobs: list[str]) -> list[dict[str, Any]]:
    """What accounting says, where the site has it; `scontrol` forgets a job minutes after its end."""
    try:
        lines = slurm(
            ["sacct", "--allocations", "--noheader", "--parsable2", "--jobs=" + ",".join(jobs)]
            + ["--format=JobIDRaw,User,State,ExitCode,Comment"]
        )
    except RefusedError:
        return []
    found = []
    for line in lines.splitlines():
        words = line.split("|", 4)
        if len(words) == 5 and words[4].startswith(MARK):
            code, _, signal = words[3].partition(":")
            status = (int(code or 0) << 8) + int(signal or 0)
            said = {"job": words[0], "account": words[1], "state": words[2].split()[0], "comment": words[4]}
            found.append(dict(said, status=status, reason="", starts_at=0, restarts=0))
    return found


def sizes(request: Any) -> dict[str, Any]:
    """The plain files of a job's folder with their sizes."""
    try:
        with os.scandir(folder_of(request)) as entries:
            return {"sizes": {e.name: e.stat().st_size for e in entries if e.is_file(follow_symlinks=False)}}
    except FileNotFoundError:
        return {"sizes": {}}


def read(request: Any) -> dict[str, Any]:
    """A part of a file of a job's folder."""
    offset, length = request.get("offset"), count(request, "length")
    if isinstance(offset, bool) or not isinstance(offset, int) or offset < 0:
        raise RefusedError("bad-request", "offset is not acceptable")
    path = os.path.join(folder_of(request), checked(FILE, request, "name"))
    try:
        # O_NONBLOCK: a job may put a pipe in the file's place.
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
            file.seek(offset)
            content = file.read(min(length, MOST_READ_BYTES)) or b""
    except FileNotFoundError:
        content = b""
    return {"content": base64.b64encode(content).decode()}


VERBS = {
    each.__name__: each for each in (version, prepare, create, stage, start, abort, delete, remove, queue, sizes, read)
}


def answer(asked: str) -> dict[str, Any]:
    """The answer to a request, whatever it holds."""
    try:
        request = json.loads(asked)
        verb = VERBS.get(str(request.get("verb"))) if isinstance(request, dict) else None
        if verb is None:
            raise RefusedError("bad-request", "the verb is none of: " + ", ".join(sorted(VERBS)))
        return verb(request)
    except RefusedError as refusal:
        return {"error": refusal.code, "reason": refusal.reason}
    except ValueError:
        return {"error": "bad-request", "reason": "the request cannot be read"}
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        return {"error": "disk-full" if full else "folder", "reason": os.strerror(error.errno or 0)}


def main() -> None:
    """Answers one request."""
    os.umask(0o077)
    asked = sys.stdin.buffer.read(MOST_REQUEST_BYTES + 1)
    if len(asked) > MOST_REQUEST_BYTES:
        said = {"error": "bad-request", "reason": "the request is too long"}
    else:
        said = answer(asked.decode(errors="replace"))
    json.dump(said, sys.stdout)


if __name__ == "__main__":
    main()
