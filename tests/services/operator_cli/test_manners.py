"""How the command behaves: completion, colours and progress on a terminal, near misses, brokers that half permit."""

from __future__ import annotations

import asyncio
import io
import os
import pty
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from rich.console import Console

from schemas.base import SessionId
from schemas.subjects import Subjects
from services._runtime.errors import TransientError
from services._runtime.memory import MemoryLog
from services._runtime.settings import Configuration
from services.operator_cli import nats_config, output
from services.operator_cli.histories import LogHistories
from services.operator_cli.read import log_is_there
from services.operator_cli.story.history import NoSuchSessionError, find
from tests.services.operator_cli.conftest import guarded_nats, signed_in
from tests.services.operator_cli.histories import recorded
from tests.support.running import ROOT
from tests.support.samples import Story, stamp

FARLAB = [sys.executable, "-m", "services.operator_cli"]
WRONG = [*FARLAB, "sessions", "--since", "yesterday"]


def run(command: list[str], **more: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "FARLAB_CONFIG": str(ROOT / "farlab.toml"), **more}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False)


def completed(*words: str) -> set[str]:
    """What bash is offered after these words; the last is incomplete."""
    told = run(
        [
            sys.executable,
            "-c",
            "import sys; sys.argv[0] = 'farlab'; from services.operator_cli.__main__ import main; main()",
        ],
        _FARLAB_COMPLETE="complete_bash",
        COMP_WORDS=" ".join(["farlab", *words]),
        COMP_CWORD=str(len(words)),
        _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1",
    )
    return set(told.stdout.split())


@pytest.mark.parametrize(
    ("words", "offered"),
    [(["dead"], "dead-letters"), (["replay", "--in"], "--into"), (["sessions", "--system", "demo-h"], "demo-hpc")],
)
def test_a_shell_completes_commands_options_and_systems(words: list[str], offered: str) -> None:
    assert offered in completed(*words)


def test_colours_are_for_terminals() -> None:
    piped = run(WRONG)
    assert (piped.returncode, "\x1b" in piped.stdout + piped.stderr) == (2, False)
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color"}
    environment.pop("NO_COLOR", None)
    with subprocess.Popen(WRONG, cwd=ROOT, env=environment, stdout=theirs, stderr=theirs, stdin=theirs) as process:
        assert process.wait(60) == 2
    os.close(theirs)
    said = b""
    while chunk := _read(ours):
        said += chunk
    os.close(ours)
    assert b"\x1b[31m" in said
    assert b"write a duration such as 10m" in said.replace(b"\r\n", b" ")


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65_536)
    except OSError:  # the other end is closed
        return b""


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What a person at a terminal sees of standard error."""
    text = io.StringIO()
    monkeypatch.setattr(output, "errors", Console(file=text, force_terminal=True, width=80))
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setattr(output, "TOLD_AFTER_SECONDS", 0.01)
    monkeypatch.setattr(output, "TOLD_AGAIN_SECONDS", 0.01)
    return text


async def test_what_takes_long_says_how_far_it_is_on_a_terminal(terminal: io.StringIO) -> None:
    done = 0
    async with output.telling("events read", lambda: done), asyncio.timeout(20):
        while "events read: 1,234" not in terminal.getvalue():
            done = 1234
            await asyncio.sleep(0.01)


async def test_what_is_quick_or_has_no_terminal_says_nothing(
    terminal: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with output.telling("events read", lambda: 1):
        pass
    monkeypatch.setattr("sys.stderr.isatty", lambda: False)
    async with output.telling("events read", lambda: 1):
        await asyncio.sleep(0.05)
    assert "events" not in terminal.getvalue()


@pytest.mark.parametrize(
    ("wanted", "said"),
    [("adda/", "did you mean ada/?"), ("ada/one", "of ada there are: ada/"), ("01zz", "`farlab sessions` lists them")],
)
def test_a_near_miss_is_told(wanted: str, said: str) -> None:
    with pytest.raises(NoSuchSessionError, match=said.replace("?", r"\?")):
        find([recorded(Story().requested())], wanted)


def test_an_id_with_a_letter_wrong_finds_the_one_that_was_meant() -> None:
    story = Story(SessionId("01k6y3m8zt5q0v7n2c4e9wxr1h"))
    with pytest.raises(NoSuchSessionError, match=r"did you mean 01k6y3m8zt5q0v7n2c4e9wxr1h\?"):
        find([recorded(story.requested())], "01k6y3m8zt5q0v7n2c4e9wxr1j")


async def test_thousands_of_sessions_are_read_each_whole() -> None:
    log, subjects = MemoryLog(), Subjects()
    for number in range(2000):
        event = stamp()(Story(user=f"u{number}").requested(), after=0, cause=None)
        scope = subjects.session(event.session)
        await log.append("SESSIONS", subjects.session_event(event), event, scope=scope, after=0)
    assert len(await LogHistories(log, subjects).all()) == 2000


@pytest.fixture
async def half_permitting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Configuration]:
    """A broker that lets the operator in and does not let it read sessions."""
    whole = nats_config.permissions

    def half(service: str, subjects: Subjects, hub: str, *, sandbox: bool = False) -> nats_config.Permissions:
        given = whole(service, subjects, hub, sandbox=sandbox)
        kept = [subject for subject in given.publish if not subject.startswith("$JS.API.DIRECT.GET.SESSIONS")]
        return nats_config.Permissions(kept, given.subscribe, given.never, given.answers)

    monkeypatch.setattr(nats_config, "permissions", half)
    async with guarded_nats(tmp_path) as configuration:
        yield configuration


async def test_a_broker_that_half_permits_is_said_in_words(
    half_permitting: Configuration, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services._runtime.jetstream.HISTORY_SECONDS", 0.5)
    async with signed_in(half_permitting, "operator-cli") as broker:
        with pytest.raises(TransientError, match="does not let operator-cli read it"):
            await log_is_there(broker, half_permitting)
