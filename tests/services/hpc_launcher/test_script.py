"""The words of a job: the script as a whole, nothing of a user in a shell, and what a job may say back."""

from __future__ import annotations

import shlex

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.secrets import JobSecrets
from schemas.session import CloudPlace, Resources
from services._launching.server_start import Plan
from services._runtime.errors import PermanentError
from services._runtime.systems import Job, RemoteForward, SshReach, System
from services.hpc_launcher import script
from services.hpc_launcher.ports import Owner, session_of
from tests.support.catalogue import system
from tests.support.samples import Story

GOLDEN = """\
#!/bin/bash
farlab_folder="$(cd -- "$(dirname -- "$0")" && pwd)" || exit 70
printf '%s\\n' '{"percent":10,"message":"Loading software"}' >> "$farlab_folder/farlab-progress.jsonl" || true
module load Stages/2026 JupyterLab
export OMP_NUM_THREADS=4
farlab_address="$SLURMD_NODENAME"
exec '/opt/python 3/bin/python' "$farlab_folder/farlab_job.py" --address "$farlab_address"
"""


def with_job(**job: object) -> System:
    return msgspec.structs.replace(system(), job=Job(**job))  # type: ignore[arg-type]


def secrets(**environment: str) -> JobSecrets:
    return JobSecrets(environment=environment, proof_key="00" * 32)


def test_the_script_as_a_whole() -> None:
    job = Job(
        python="/opt/python 3/bin/python",
        prologue=["module load Stages/2026 JupyterLab", "export OMP_NUM_THREADS=4"],
        node_address="$SLURMD_NODENAME",
    )
    assert script.start_script(job) == GOLDEN


def test_a_system_without_prologue_says_nothing_of_software() -> None:
    assert "progress" not in script.start_script(Job())


def test_the_description_names_place_and_marks_and_nothing_secret() -> None:
    request = Story().requested()
    owner = script.owner_of(request, Story().admitted())
    assert owner == Owner("CN=Ada", "ada1", "ztrain", "ada")
    described = script.description(system(), "farlab", request, owner)
    assert (described.partition, described.project, described.resources) == ("batch", "ztrain", request.resources)
    assert session_of(described.marks.words) == request.session
    assert set(described.files) == {"start.sh", "farlab_job.py", "farlab_proof.py"}
    assert described.notification_url == ""


def test_notifications_go_to_the_session_where_the_site_can_reach_us() -> None:
    request, there = Story().requested(), system()
    reachable = msgspec.structs.replace(
        there, site=msgspec.structs.replace(there.site, notifications_url="https://hub.example/launcher/")
    )
    described = script.description(reachable, "farlab", request, Owner("a", "b", "c"))
    assert described.notification_url == f"https://hub.example/launcher/notifications/demo-hpc/{request.session}"


def test_a_cloud_start_is_not_for_this_launcher() -> None:
    request = msgspec.structs.replace(Story().requested(), place=CloudPlace(flavour="m"))
    with pytest.raises(PermanentError, match="not-an-hpc-session"):
        script.owner_of(request, Story().admitted())


@given(
    value=st.text(min_size=1, max_size=200),
    name=st.from_regex(r"[A-Z]{1,20}", fullmatch=True),
)
def test_whatever_a_user_chose_is_data_and_never_shell(value: str, name: str) -> None:
    request = msgspec.structs.replace(
        Story(server_name="x").requested(), environment={name: value}, software=value[:200], base_url=f"/user/{name}/"
    )
    described = script.description(with_job(prologue=["true"]), "farlab", request, Owner("a", "b", "c"))
    assert described.files["start.sh"] == script.start_script(Job(prologue=["true"]))
    [content] = script.secret_files(system(), request, secrets()).values()
    assert msgspec.json.decode(content, type=Plan).environment[name] == value


def test_the_hubs_secrets_win_over_the_users_environment() -> None:
    request = msgspec.structs.replace(Story().requested(), environment={"JUPYTERHUB_API_TOKEN": "mine", "A": "1"})
    [content] = script.secret_files(system(), request, secrets(JUPYTERHUB_API_TOKEN="hub")).values()
    assert msgspec.json.decode(content, type=Plan).environment == {"JUPYTERHUB_API_TOKEN": "hub", "A": "1"}


HUB = {
    "JUPYTERHUB_API_URL": "http://10.0.0.5:8081/hub/api",
    "JUPYTERHUB_ACTIVITY_URL": "http://10.0.0.5:8081/hub/api/users/ada/activity",
    "JUPYTERHUB_HOST": "http://10.0.0.5:8081/hub/apiary",
}


def test_the_hub_is_named_as_jobs_reach_it() -> None:
    reached = script.hub_reached_from_job(HUB, with_job(hub_api_url="https://hub.example/hub/api/"))
    assert reached == {
        "JUPYTERHUB_API_URL": "https://hub.example/hub/api",
        "JUPYTERHUB_ACTIVITY_URL": "https://hub.example/hub/api/users/ada/activity",
        "JUPYTERHUB_HOST": HUB["JUPYTERHUB_HOST"],
    }


def test_the_hub_is_reached_through_the_login_node_where_that_forwards_to_it() -> None:
    forward = RemoteForward(listen_host="login1", listen_port=25480, hub_host="127.0.0.1", hub_port=8081)
    reach = SshReach(
        login_nodes=["l:22"], user="f", key_file="k", known_hosts_file="h", networks=[], remote_forward=forward
    )
    reached = script.hub_reached_from_job(HUB, msgspec.structs.replace(system(), reach=reach))
    assert reached["JUPYTERHUB_API_URL"] == "http://login1:25480/hub/api"


def test_without_other_word_the_hub_stays_where_it_is() -> None:
    assert script.hub_reached_from_job(HUB, system()) == HUB
    assert script.hub_reached_from_job({}, with_job(hub_api_url="https://hub.example")) == {}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b'{"host": "node12", "port": 50000}', script.Endpoint("node12", 50000)),
        (b'{"host": "127.30.0.11", "port": 50000, "more": 1}', script.Endpoint("127.30.0.11", 50000)),
        (b'{"host": "node12", "port": 22}', None),
        (b'{"host": "node12; rm -rf /", "port": 50000}', None),
        (b'{"host": "-oProxyCommand=x y", "port": 50000}', None),
        (b'{"host": "-node", "port": 50000}', None),
        (b'{"host": "", "port": 50000}', None),
        (b'{"host": "node12", "port": "50000"}', None),
        (b'{"host": "node12"', None),
        (b"\xff\xfe", None),
        (b"[]", None),
    ],
)
def test_an_endpoint_is_believed_only_within_the_systems_ports(
    content: bytes, expected: script.Endpoint | None
) -> None:
    assert script.endpoint(content, (49152, 65535)) == expected


def test_progress_is_read_line_by_line_and_only_whole_lines() -> None:
    content = b'{"percent": 20, "message": "one"}\nnot json\n{"percent": 900, "message": "\\u0007 two "}\n{"percent": 3'
    lines, done = script.progress_lines(content)
    assert lines == [script.ProgressLine(20, "one"), script.ProgressLine(100, "two")]
    assert content[done:] == b'{"percent": 3'
    assert script.progress_lines(b"") == ([], 0)


@given(st.binary(max_size=300))
def test_a_job_may_write_anything(content: bytes) -> None:
    _, done = script.progress_lines(content)
    assert 0 <= done <= len(content)
    script.endpoint(content, (1, 65535))


def test_use_counts_whole_nodes_where_no_cores_were_asked_for() -> None:
    request = msgspec.structs.replace(Story().requested(), resources=Resources(runtime_seconds=60, nodes=2, gpus=8))
    assert script.core_seconds(system(), request, 10) == (2 * 16 * 10, 80)
    some = msgspec.structs.replace(request, resources=Resources(runtime_seconds=60, cores=3))
    assert script.core_seconds(system(), some, 10) == (30, 0)


def test_the_prologues_words_reach_the_shell_as_they_are() -> None:
    assert shlex.quote("a b") in script.start_script(Job(python="a b"))
