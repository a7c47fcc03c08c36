"""The command as a person types it: what wrong input gets, and what the log's commands say."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from schemas.subjects import Subjects
from services._runtime.configuration import ConfigurationError
from services._runtime.log import Recorded
from services.operator_cli.sessions import NoSuchSessionError, find, row, timeline
from services.operator_cli.state_folder import StateFolder
from services.operator_cli.supervisor import Child, NotReadyError, Supervisor
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
    ports = first.ports(["demo-hpc"], 0)
    assert second.ports(["demo-hpc"], 0) == ports


async def yes() -> bool:
    return True


async def test_a_supervisor_restarts_what_crashes_and_leaves_nothing(tmp_path: Path) -> None:
    said: list[tuple[str, str]] = []
    supervisor = Supervisor(tmp_path, lambda name, what: said.append((name, what)))
    for name in ("first", "second"):
        await supervisor.start(Child(name=name, command=["sleep", "600"], ready=yes))
    before = supervisor.pids()
    supervisor.kill("first")
    async with asyncio.timeout(10):
        while supervisor.pids()["first"] == before["first"] or ("first", "ready again") not in said:
            await asyncio.sleep(0.02)
    pids = supervisor.pids()
    assert pids["second"] == before["second"]
    await supervisor.stop()
    for pid in pids.values():
        with pytest.raises(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


async def test_a_child_that_never_gets_ready_is_told_with_the_end_of_its_log(tmp_path: Path) -> None:
    async def no() -> bool:
        return False

    supervisor = Supervisor(tmp_path, lambda name, what: None)
    with pytest.raises(NotReadyError, match="the disk is full"):
        await supervisor.start(Child(name="bad", command=["sh", "-c", "echo the disk is full; exit 3"], ready=no))
    await supervisor.stop()
