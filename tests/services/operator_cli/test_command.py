"""The command as a person types it: what wrong input gets, and what the log's commands say."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from schemas.base import SystemName
from schemas.subjects import Subjects
from services._runtime.configuration import ConfigurationError
from services._runtime.log import Recorded
from services.operator_cli.state_folder import StateFolder
from services.operator_cli.story.history import NoSuchSessionError, find
from services.operator_cli.story.row import row
from services.operator_cli.story.timeline import timeline
from tests.support.catalogue import system
from tests.support.running import ROOT
from tests.support.samples import Story, stamp

SUBJECTS = Subjects()


def farlab(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "services.operator_cli", *arguments],
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "300", **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def configured(folder: Path, text: str, system: str | None = None) -> str:
    (folder / "systems").mkdir()
    good = (ROOT / "systems" / "demo-hpc.toml").read_text()
    (folder / "systems" / "demo-hpc.toml").write_text(good if system is None else system)
    (folder / "farlab.toml").write_text(text)
    return str(folder / "farlab.toml")


def test_the_default_configuration_is_sound() -> None:
    done = farlab("config", "check", "--config", str(ROOT / "farlab.toml"))
    assert (done.returncode, "all is well; systems: demo-hpc" in done.stdout) == (0, True), done.stderr


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[installation]\nhubb = "x"\n', 'installation.hubb is not a setting; did you mean "hub"?'),
        ('[installation]\nhub = "Not A Slug"\n', "installation.hub = 'Not A Slug'"),
        ("[tunneler]\ncheck_seconds = -1\n", "tunneler.check_seconds = -1"),
        ('[nats]\nservers = ["http://x"]\n', "nats.servers"),
        ("not toml at all", "not TOML"),
        ('tunneler = "x"\n', "must be a table"),
        ('[[accounts.users]]\nname = "a"\nsystems.nowhere = {}\n', "no system 'nowhere'; there are: demo-hpc"),
    ],
)
def test_a_wrong_setting_gets_one_line_with_file_key_and_remedy(tmp_path: Path, text: str, said: str) -> None:
    done = farlab("config", "check", "--config", configured(tmp_path, text))
    assert done.returncode == 2
    assert said in done.stderr
    assert str(tmp_path / "farlab.toml") in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_wrong_system_file_is_named(tmp_path: Path) -> None:
    system = (ROOT / "systems" / "demo-hpc.toml").read_text().replace("max_nodes = 4", "max_node = 4")
    done = farlab("config", "check", "--config", configured(tmp_path, "", system))
    assert done.returncode == 2
    assert 'did you mean "max_nodes"?' in done.stderr
    assert "demo-hpc.toml" in done.stderr


def test_a_broker_that_is_down_is_said_in_one_line(tmp_path: Path) -> None:
    text = '[nats]\nservers = ["nats://127.0.0.1:1"]\nconnect_seconds = 0.2\n'
    done = farlab("sessions", "--config", configured(tmp_path, text))
    assert done.returncode == 1
    assert "no NATS server answers at nats://127.0.0.1:1 " in done.stderr
    assert "Traceback" not in done.stderr


def history(story: Story) -> list[Recorded]:
    events = [story.requested(), story.admitted(), story.created(), story.submitted(), story.stop(), story.ended()]
    return [Recorded(number, stamp()(event, after=number, cause=None)) for number, event in enumerate(events, 1)]


def test_a_timeline_tells_every_step_and_the_state_after_it() -> None:
    steps = timeline(history(Story()))
    assert [step.state for step in steps] == ["requested", "admitted", "created", "submitted", "stopping", "ended"]
    assert steps[0].details["user"] == "ada"
    json.dumps([step.details for step in steps], default=str)


def test_a_row_has_the_outcome_and_its_reason() -> None:
    listed = row(history(Story()))
    assert listed is not None
    assert (listed.state, listed.outcome, listed.reason) == ("ended", "stopped", "stopped by ada")


def test_a_session_is_found_by_part_of_its_id_or_by_whose_it_is() -> None:
    ada, ben = history(Story(user="ada")), history(Story(user="ben", server_name="lab"))
    sessions = [ada, ben]
    ben_id = ben[0].message.session  # type: ignore[attr-defined]
    assert find(sessions, "ada/") is ada
    assert find(sessions, "ben/lab") is ben
    assert find(sessions, ben_id) is ben
    assert find(sessions, ben_id[-8:]) is ben
    with pytest.raises(NoSuchSessionError, match="there is no session 'nope'"):
        find(sessions, "nope")
    with pytest.raises(NoSuchSessionError, match="means 2 sessions"):
        find(sessions, "01")


def test_a_state_folder_is_for_one_and_its_secrets_for_its_owner(tmp_path: Path) -> None:
    first, second = StateFolder(tmp_path / "s"), StateFolder(tmp_path / "s")
    with first.lock(), pytest.raises(ConfigurationError, match="another `farlab up` uses this folder"), second.lock():
        pass
    with second.lock():
        pass
    first.make_keys()
    secret = first.secret("password")
    assert second.secret("password") == secret
    private = [tmp_path / "s" / name for name in ("password", "keys/id_ed25519", "keys/delegation.pem")]
    assert all(stat.S_IMODE(file.stat().st_mode) == 0o600 for file in private)
    systems = {SystemName("demo-hpc"): system("demo-hpc")}
    ports = first.ports(systems, 0)
    assert second.ports(systems, 0) == ports


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["up", "--config", "/nowhere/farlab.toml"], 2, "/nowhere/farlab.toml: no such file; name another"),
        (["events", "--since", "yesterday"], 2, "--since yesterday: not a time; write a duration such as 10m"),
        (["check", "--hub", "http://127.0.0.1:1", "--token-file", "/nowhere/t"], 2, "name one that holds a token"),
        (["keys", "/proc/nowhere"], 2, "/proc/nowhere: cannot be written"),
    ],
)
def test_what_cannot_be_is_one_line_with_a_remedy(arguments: list[str], code: int, said: str) -> None:
    done = farlab(*arguments, FARLAB_CONFIG=str(ROOT / "farlab.toml"))
    assert done.returncode == code
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert done.stdout == ""


def test_a_public_port_that_is_taken_is_said_before_anything_starts(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = farlab("up", "--config", str(ROOT / "farlab.toml"), "--state", str(tmp_path / "s"), "--port", port)
    assert done.returncode == 2
    assert f"port {port} is taken by another program" in done.stderr
    assert not list((tmp_path / "s" / "logs").iterdir())


def test_a_start_at_a_hub_that_is_away_is_one_line(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.touch(mode=0o600)
    place = ["--system", "demo-hpc", "--account", "a", "--project", "p", "--partition", "batch"]
    done = farlab("start", "ada", *place, "--hub", "http://127.0.0.1:1", "--token-file", str(token))
    assert done.returncode == 1
    assert done.stderr.startswith("farlab: not started: Cannot connect to host 127.0.0.1:1")
    assert len(done.stderr.strip().splitlines()) == 1


def test_what_is_wrong_never_mixes_with_json(tmp_path: Path) -> None:
    text = '[nats]\nservers = ["nats://127.0.0.1:1"]\nconnect_seconds = 0.2\n'
    done = farlab("sessions", "--json", "--config", configured(tmp_path, text))
    assert done.stdout == "", "what is wrong goes to standard error, so that JSON stays JSON"
