"""Words the job of a session: description, files, and the secret plan its server runs by. Pure; submits nothing.

Whatever a user chose is data in JSON. The shell sees only what the system's operator wrote.
"""

from __future__ import annotations

import re
import shlex
from urllib.parse import urlsplit

import msgspec

from schemas.secrets import JobSecrets
from schemas.session import HpcPlace, StartAdmitted, StartRequested
from services._launching import server_start
from services._launching.server_start import SECRETS_FILE
from services._runtime.errors import PermanentError
from services._runtime.systems import Job, SshReach, System, UnicoreSite, cores_of
from services.hpc_launcher.ports import JobDescription, Marks, Owner

PROGRESS_FILE = "farlab-progress.jsonl"
ENDPOINT_FILE = "farlab-endpoint.json"

_HOST = re.compile(r"[A-Za-z0-9:][A-Za-z0-9.:-]{0,252}")


def owner_of(request: StartRequested, admission: StartAdmitted) -> Owner:
    """For whom the launcher acts. Raises PermanentError when the session is not one for an HPC system."""
    place = request.place
    if not isinstance(place, HpcPlace):
        raise PermanentError(
            "not-an-hpc-session",
            f"{request.system} is an HPC system, and the start asks for a cloud's flavour.",
            "Choose account, project and partition.",
        )
    return Owner(admission.site_identity or place.account, place.account, place.project, request.user)


def marks_of(installation: str, request: StartRequested) -> Marks:
    """What the session's job is found again by."""
    return Marks(installation, request.hub, request.session)


def description(system: System, installation: str, request: StartRequested, owner: Owner) -> JobDescription:
    """The job to be made for a session."""
    place = request.place
    site = system.site
    notifications = site.notifications_url.rstrip("/") if isinstance(site, UnicoreSite) else ""
    return JobDescription(
        name=f"farlab-{request.session}",
        marks=marks_of(installation, request),
        executable="/bin/bash",
        arguments=("start.sh",),
        files={
            "start.sh": start_script(system.job),
            "farlab_job.py": server_start.payload("farlab_job.py"),
            "farlab_proof.py": server_start.payload("farlab_proof.py"),
        },
        partition=place.partition if isinstance(place, HpcPlace) else "",
        project=owner.project,
        resources=request.resources,
        notification_url=f"{notifications}/notifications/{request.system}/{request.session}" if notifications else "",
    )


def start_script(job: Job) -> str:
    """The shell script: the operator's prologue, the node's address, and on into Python."""
    lines = [
        "#!/bin/bash",
        'farlab_folder="$(cd -- "$(dirname -- "$0")" && pwd)" || exit 70',
        *([_progress_line(10, "Loading software")] if job.prologue else []),
        *job.prologue,
        f'farlab_address="{job.node_address}"',
        f'exec {shlex.quote(job.python)} "$farlab_folder/farlab_job.py" --address "$farlab_address"',
    ]
    return "\n".join(lines) + "\n"


def _progress_line(percent: int, message: str) -> str:
    line = msgspec.json.encode({"percent": percent, "message": message}).decode()
    return f"printf '%s\\n' {shlex.quote(line)} >> \"$farlab_folder/{PROGRESS_FILE}\" || true"


def secret_files(system: System, request: StartRequested, secrets: JobSecrets) -> dict[str, bytes]:
    """The files that only the job's owner may read."""
    plan = server_start.plan(
        request,
        secrets,
        hub_reached_from_job(secrets.environment, system),
        ports=system.job.ports,
        server_start_seconds=system.job.server_start_seconds,
    )
    return {SECRETS_FILE: msgspec.json.encode(plan)}


def hub_reached_from_job(environment: dict[str, str], system: System) -> dict[str, str]:
    """The environment with the hub's address as jobs of the system reach it."""
    url = _hub_api_url(environment.get("JUPYTERHUB_API_URL", "").rstrip("/"), system)
    return server_start.hub_reached_at(url, environment)


def _hub_api_url(url: str, system: System) -> str:
    if system.job.hub_api_url:
        return system.job.hub_api_url.rstrip("/")
    reach = system.reach
    if isinstance(reach, SshReach) and reach.remote_forward is not None:
        forward = reach.remote_forward
        return urlsplit(url)._replace(netloc=f"{forward.listen_host}:{forward.listen_port}").geturl()
    return url


class Endpoint(msgspec.Struct, frozen=True):
    """Where the job says that its server listens."""

    host: str
    port: int


class ProgressLine(msgspec.Struct, frozen=True):
    """A line of what the job says it is doing."""

    percent: int
    message: str


def endpoint(content: bytes, ports: tuple[int, int]) -> Endpoint | None:
    """What the endpoint file says, or None when that is no endpoint within the system's ports: jobs may lie."""
    try:
        said = msgspec.json.decode(content, type=Endpoint)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    return said if _HOST.fullmatch(said.host) and ports[0] <= said.port <= ports[1] else None


def progress_lines(content: bytes) -> tuple[list[ProgressLine], int]:
    """The complete, readable lines at the beginning of `content`, and how many bytes are done with."""
    done = content.rfind(b"\n") + 1
    lines = []
    for line in content[:done].splitlines():
        try:
            said = msgspec.json.decode(line, type=ProgressLine)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            continue
        message = " ".join("".join(each if each.isprintable() else " " for each in said.message).split())[:300]
        if message:
            lines.append(ProgressLine(min(max(said.percent, 0), 100), message))
    return lines, done


def core_seconds(system: System, request: StartRequested, seconds: float) -> tuple[int, int]:
    """What a job that ran so long used, in core- and GPU-seconds: whole nodes where no cores were asked for."""
    cores = cores_of(system, request.place, request.resources)
    return round(cores * seconds), round(request.resources.gpus * seconds)
