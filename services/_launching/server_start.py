"""What a user's server is started with, wherever it runs: its secret plan, and the programs that carry it out. Pure.

Whatever a user chose is data in JSON. The programs are those of the package `job_payload`.
"""

from __future__ import annotations

from importlib.resources import files

import msgspec

from schemas.secrets import Certificates, JobSecrets
from schemas.session import StartRequested

SECRETS_FILE = "farlab-secrets.json"
STARTER = "farlab_job.py"
PROOF = "farlab_proof.py"
PAYLOAD = "services._launching.job_payload"
SERVER_ARGUMENTS = ("-m", "jupyterhub.singleuser", "--ServerApp.jpserver_extensions=farlab_proof=True")


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What the job reads from its secret file: how to run the user's server, and with which secrets."""

    environment: dict[str, str]
    proof_key: str
    certificates: Certificates | None
    base_url: str
    ports: tuple[int, int]
    server_start_seconds: float
    arguments: tuple[str, ...]


def plan(
    request: StartRequested,
    secrets: JobSecrets,
    environment: dict[str, str],
    *,
    ports: tuple[int, int],
    server_start_seconds: float,
) -> Plan:
    """The plan for a session's server; `environment` is that of its secrets, as the place reaches the hub."""
    return Plan(
        environment={**request.environment, **environment},
        proof_key=secrets.proof_key,
        certificates=secrets.certificates,
        base_url=request.base_url if request.base_url.endswith("/") else request.base_url + "/",
        ports=ports,
        server_start_seconds=server_start_seconds,
        arguments=SERVER_ARGUMENTS,
    )


def hub_reached_at(url: str, environment: dict[str, str]) -> dict[str, str]:
    """The environment with another address of the hub where it begins with the one it has; empty: as it is."""
    old, new = environment.get("JUPYTERHUB_API_URL", "").rstrip("/"), url.rstrip("/")
    if not old or not new or new == old:
        return environment
    return {
        name: new + value[len(old) :] if value == old or value.startswith(old + "/") else value
        for name, value in environment.items()
    }


def payload(name: str) -> str:
    """The text of a program that runs where the server runs."""
    return files(PAYLOAD).joinpath(name).read_text(encoding="utf-8")
