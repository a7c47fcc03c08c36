"""What slurmrestd may answer, and what its client makes of it. The real one is in `tests/real/slurm`."""

from __future__ import annotations

import contextlib
import json
import os
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from aiohttp import web
from joserfc import jwt
from joserfc.jwk import OctKey

from emulators import certificates
from services._runtime.configuration import ConfigurationError
from services._runtime.errors import PermanentError, TransientError
from services._runtime.systems import SlurmRest, SlurmSite
from services._runtime.vault import KeyFileError
from services.hpc_launcher.slurm_documents import KNOWN, RestJob, Said, listed, submission, versions
from services.hpc_launcher.slurm_shell import NoSuchJobError
from services.hpc_launcher.slurm_tokens import LIFETIME_SECONDS, SlurmTokens
from services.hpc_launcher.slurmrestd import NeverArrivedError, Slurmrestd

OFFER = {"paths": {"/slurm/v0.0.37/jobs/": {}, "/slurm/v0.0.38/jobs/": {}, "/openapi": {}}}
MARKS = "farlab-installation-test farlab-hub-hub farlab-session-01k"


@pytest.fixture
def key(tmp_path: Path) -> Path:
    file = tmp_path / "jwt_hs256.key"
    file.touch(0o600)
    file.write_bytes(os.urandom(32))
    return file


class Answers:
    """A server that gives the one answer it was told to, and remembers what it was asked."""

    def __init__(self) -> None:
        self.status, self.body = 200, "{}"
        self.offer = OFFER
        self.asked: list[web.Request] = []

    async def answer(self, request: web.Request) -> web.Response:
        self.asked.append(request)
        if request.path == "/openapi/v3":
            return web.json_response(self.offer)
        if f"{request.path.rpartition('/')[0]}/jobs/" not in self.offer["paths"]:
            return web.Response(status=404, text="Unable find requested URL.")
        return web.Response(status=self.status, text=self.body, content_type="application/json")

    def says(self, status: int, body: object) -> None:
        self.status, self.body = status, body if isinstance(body, str) else json.dumps(body)


@contextlib.asynccontextmanager
async def asked(
    answers: Answers, key: Path, tls: ssl.SSLContext | None = None, ca_file: str = ""
) -> AsyncIterator[Slurmrestd]:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answers.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
    url = f"http{'s' if tls else ''}://127.0.0.1:{runner.addresses[0][1]}"
    site = SlurmSite(login_nodes=["a:22"], key_file="", known_hosts_file="", query_account="queue")
    slurmrestd = Slurmrestd("Cluster", site, SlurmRest(url=url, jwt_key_file=str(key), ca_file=ca_file))
    try:
        yield slurmrestd
    finally:
        await slurmrestd.close()
        await runner.cleanup()


@pytest.mark.parametrize(
    ("status", "body", "means", "words"),
    [
        (200, "<html>welcome</html>", TransientError, "HTTP 200 and not with its JSON"),
        (200, {"errors": "many"}, TransientError, "not with its JSON"),
        (200, "[" * 10_000, TransientError, "not with its JSON"),
        (502, "bad gateway", TransientError, "HTTP 502 and not with its JSON"),
        (503, {}, TransientError, "answered HTTP 503"),
        (302, {}, TransientError, "answered HTTP 302"),
        (401, "Authentication failure", TransientError, "does not let this service act as ada"),
        (
            500,
            {"errors": [{"error_number": 1007, "error": "no"}]},
            TransientError,
            "does not let this service act as ada",
        ),
        (500, {"errors": [{"error_number": 5004, "error": "timed out"}]}, TransientError, "controller does not answer"),
        (500, {"errors": [{"error_number": -1, "error": "?"}]}, TransientError, "does not answer, or does not believe"),
        (
            500,
            {"errors": [{"error_code": 2027, "error": "standby"}]},
            TransientError,
            "controller does not answer: standby",
        ),
        (
            500,
            {"errors": [{"error_code": 2050, "error": "Job violates\nlimits"}]},
            PermanentError,
            "Job violates limits",
        ),
        (
            400,
            {
                "errors": [
                    {"error": "no word"},
                    {"error_number": -1, "error": "?"},
                    {"error_code": 9001, "error": "parsing"},
                ]
            },
            PermanentError,
            "refused the job: parsing",
        ),
        (500, {"errors": [{"error_number": 2017, "error": "Invalid job id"}]}, NoSuchJobError, "Invalid job id"),
    ],
)
async def test_every_answer_has_its_meaning(
    key: Path, status: int, body: object, means: type[Exception], words: str
) -> None:
    answers = Answers()
    async with asked(answers, key) as slurmrestd:
        answers.says(status, body)
        with pytest.raises(means, match=words):
            await slurmrestd.ask("ada", "GET", "/jobs")


async def test_the_newest_version_that_both_know_is_asked_for_once(key: Path) -> None:
    answers = Answers()
    async with asked(answers, key) as slurmrestd:
        for _ in range(2):
            await slurmrestd.ask("ada", "GET", "/jobs")
    assert [each.path for each in answers.asked] == ["/openapi/v3", "/slurm/v0.0.38/jobs", "/slurm/v0.0.38/jobs"]
    assert [each.headers["X-SLURM-USER-NAME"] for each in answers.asked] == ["queue", "ada", "ada"]


async def test_a_site_that_was_upgraded_is_asked_in_its_new_version(key: Path) -> None:
    answers = Answers()
    async with asked(answers, key) as slurmrestd:
        await slurmrestd.ask("ada", "GET", "/jobs")
        answers.offer = {"paths": {"/slurm/v0.0.41/jobs/": {}, "/slurm/v0.0.42/jobs/": {}, "/slurm/v0.0.99/jobs/": {}}}
        with pytest.raises(TransientError, match="HTTP 404 and not with its JSON"):
            await slurmrestd.ask("ada", "GET", "/jobs")
        await slurmrestd.ask("ada", "GET", "/jobs")
    assert answers.asked[-1].path == "/slurm/v0.0.42/jobs"


async def test_only_a_certificate_of_the_named_ca_is_trusted(key: Path, tmp_path: Path) -> None:
    ca, certificate, certificate_key = certificates.make(tmp_path / "tls", "127.0.0.1", "slurm")
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate, certificate_key)
    async with asked(Answers(), key, tls, str(ca)) as slurmrestd:
        await slurmrestd.ask("ada", "GET", "/jobs")
    async with asked(answers := Answers(), key, tls) as slurmrestd:
        with pytest.raises(NeverArrivedError, match=r"certificate that is not trusted here; site\.rest\.ca_file"):
            await slurmrestd.ask("ada", "GET", "/jobs")
    assert answers.asked == []
    with pytest.raises(ConfigurationError, match=r"site\.rest\.ca_file = .*: not a file of CA certificates"):
        async with asked(Answers(), key, tls, str(key)):
            pass


async def test_versions_that_nobody_here_knows_are_named(key: Path) -> None:
    answers = Answers()
    answers.offer = {"paths": {"/slurm/v0.0.101/jobs/": {}, "/slurm/v0.0.99/jobs/": {}}}
    async with asked(answers, key) as slurmrestd:
        with pytest.raises(
            PermanentError, match=r"offers v0\.0\.99, v0\.0\.101; this release of Farlab knows v0\.0\.38, v"
        ):
            await slurmrestd.ask("ada", "GET", "/jobs")


async def test_no_word_of_a_failure_holds_a_token_or_the_key(key: Path) -> None:
    answers = Answers()
    async with asked(answers, key) as slurmrestd:
        answers.says(401, "")
        for _ in range(6):
            with pytest.raises(TransientError) as failed:
                await slurmrestd.ask("queue", "GET", "/jobs")
            token = answers.asked[-1].headers["X-SLURM-USER-TOKEN"]
            assert token.split(".")[2] not in repr(failed.value) + str(slurmrestd.troubles())
        assert slurmrestd.troubles() == [
            "Cluster: its Slurm controller does not believe this service's tokens "
            "(jwt_key_file is not its key, or a clock is minutes off)"
        ]
        before = len(answers.asked)
        with pytest.raises(TransientError):
            await slurmrestd.ask("queue", "GET", "/jobs")
        assert len(answers.asked) == before


async def test_accounts_that_are_refused_close_the_site_to_nobody_else(key: Path) -> None:
    answers = Answers()
    async with asked(answers, key) as slurmrestd:
        answers.says(511, {"errors": [{"error_number": 1007, "error": "Protocol authentication error"}]})
        for _ in range(10):
            with pytest.raises(TransientError, match="does not let this service act as eve"):
                await slurmrestd.ask("eve", "GET", "/jobs")
        assert slurmrestd.troubles() == []
        answers.says(200, {})
        await slurmrestd.ask("ada", "GET", "/jobs")


async def test_tokens_go_to_no_proxy_of_the_environment(key: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "")
    async with asked(Answers(), key) as slurmrestd:
        await slurmrestd.ask("ada", "GET", "/jobs")


@pytest.mark.parametrize("account", ["root", "ada\r\nX-Other: 1", "", "Ada"])
async def test_no_token_is_made_for_what_is_no_users_account(key: Path, account: str) -> None:
    async with asked(answers := Answers(), key) as slurmrestd:
        with pytest.raises(PermanentError, match="no user's account"):
            await slurmrestd.ask(account, "GET", "/jobs")
    assert answers.asked == []


def test_a_token_is_for_one_user_and_for_minutes(key: Path) -> None:
    now = 1_800_000_000.0
    tokens = SlurmTokens(key, clock=lambda: now)
    token = tokens.token("ada")
    said = jwt.decode(token, OctKey.import_key(key.read_bytes()), algorithms=["HS256"])
    assert said.claims == {"sun": "ada", "iat": int(now), "exp": int(now) + LIFETIME_SECONDS}
    now += 100
    assert (tokens.token("ada") == token, tokens.token("eve") == token) == (True, False)
    now += 100
    assert tokens.token("ada") != token


def test_a_key_that_others_may_read_or_that_is_short_is_refused(key: Path) -> None:
    key.chmod(0o640)
    with pytest.raises(KeyFileError, match="others may read it"):
        SlurmTokens(key)
    key.chmod(0o600)
    key.write_bytes(b"short")
    with pytest.raises(KeyFileError, match="5 bytes are no key for HS256"):
        SlurmTokens(key)


def test_versions_are_ordered_by_number() -> None:
    paths = ["/slurm/v0.0.100/jobs", "/slurm/v0.0.39/jobs", "/slurmdb/v0.0.40/jobs", "/slurm/v0.0.39/diag", "/openapi"]
    assert versions(paths) == ["v0.0.39", "v0.0.100"]


FOLDER = "01k-abcdefgh"
PATH = f"/home/ada/.farlab/jobs/{FOLDER}"
ASKED = {
    "session": "01k",
    "marks": MARKS,
    "partition": "batch",
    "account": "ztrain",
    "qos": "",
    "reservation": "",
    "nodes": 2,
    "minutes": 90,
    "tasks": 2,
    "cpus_per_task": 0,
    "gpus_per_node": 4,
    "memory_mib_per_node": 512,
    "files": {"secret": "canary"},
}
ALWAYS = {
    "name": "farlab-01k",
    "comment": f"{MARKS} {FOLDER}",
    "current_working_directory": PATH,
    "standard_output": f"{PATH}/stdout",
    "standard_error": f"{PATH}/stderr",
    "open_mode": "append",
    "hold": True,
    "partition": "batch",
    "account": "ztrain",
    "tasks": 2,
}
SCRIPT = "#!/bin/bash\nexec /bin/bash ./start.sh\n"


def test_what_makes_a_job_in_the_oldest_version() -> None:
    assert submission("v0.0.38", ASKED, FOLDER, PATH) == {
        "script": SCRIPT,
        "job": {
            **ALWAYS,
            "nodes": 2,
            "time_limit": 90,
            "environment": {"SLURM_EXPORT_ENV": "NONE", "SLURM_GET_USER_ENV": "1"},
            "no_requeue": True,
            "memory_per_node": 512,
            "gres": "gpu:4",
        },
    }


@pytest.mark.parametrize("version", KNOWN[1:])
def test_what_makes_a_job_in_later_versions(version: str) -> None:
    assert submission(version, ASKED, FOLDER, PATH) == {
        "job": {
            **ALWAYS,
            "script": SCRIPT,
            "nodes": "2",
            "time_limit": {"set": True, "number": 90},
            "environment": ["SLURM_EXPORT_ENV=NONE", "SLURM_GET_USER_ENV=1"],
            "requeue": False,
            "memory_per_node": {"set": True, "number": 512},
            "tres_per_node": "gres/gpu:4",
        },
    }


def test_a_job_means_the_same_in_every_version() -> None:
    old = {"job_state": "FAILED", "exit_code": 75 << 8 | 9, "start_time": 1_800_000_000, "state_reason": "None"}
    new = {
        "job_state": ["FAILED"],
        "exit_code": {
            "status": ["ERROR"],
            "return_code": {"set": True, "infinite": False, "number": 75},
            "signal": {"id": {"set": True, "infinite": False, "number": 9}, "name": "KILL"},
        },
        "start_time": {"set": True, "infinite": False, "number": 1_800_000_000},
        "state_reason": "None",
    }
    told = []
    for each in (old, new):
        said = {"jobs": [{"job_id": 7, "user_name": "ada", "comment": MARKS, "restart_cnt": 0, **each}]}
        told += listed(msgspec.json.decode(msgspec.json.encode(said), type=Said, strict=False).jobs, "farlab-")
    assert told[0] == told[1]
    assert (told[0]["status"], told[0]["starts_at"], told[0]["state"]) == (75 << 8 | 9, 1_800_000_000, "FAILED")
    unset = {"job_id": 7, "comment": MARKS, "start_time": {"set": False, "number": 0}, "exit_code": {"signal": {}}}
    [told_unset] = listed([msgspec.convert(unset, RestJob)], "farlab-")
    assert (told_unset["status"], told_unset["starts_at"]) == (0, 0)


def test_only_jobs_with_our_mark_are_told() -> None:
    held = RestJob(7, "ada", MARKS, "PENDING", "JobHeldUser", 0)
    runs = RestJob(8, "ada", MARKS, "RUNNING", "None", 0, start_time=1, restart_cnt=2)
    others = [RestJob(9, "eve", "a comment"), RestJob(10, "eve", None)]
    told = listed([held, runs, *others], "farlab-installation-")
    assert [(each["job"], each["state"], each["reason"], each["starts_at"], each["restarts"]) for each in told] == [
        ("7", "PENDING", "JobHeldUser", 0, 0),
        ("8", "RUNNING", "None", 1, 2),
    ]
