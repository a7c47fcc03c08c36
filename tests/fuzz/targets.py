"""What is fuzzed: one function per kind of input from outside. A target raises only when the product has a defect."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from schemas.session import JobStatusChanged, ProgressReported, Queued, ServerListening, SessionEvent
from schemas.subjects import SubjectError, Subjects, slug
from schemas.wire import UndecodableError, cloudevents_headers, decode, encode
from services._launching.ends import ended
from services._runtime.configuration import ConfigurationError
from services._runtime.errors import PermanentError
from services._runtime.memory import MemoryBucket
from services._runtime.settings import load
from services._runtime.vault import Vault, make_keys
from services.accounts.settings import accounts_settings
from services.hpc_launcher import ports, script
from services.hpc_launcher import unicore_documents as documents
from services.hpc_launcher.endings import judge
from services.tunneler.targets import RefusedTargetError, check_target
from tests.support.samples import NOW, Story, stamp

ROOT = Path(__file__).parents[2]
STORY = Story("01kasamp1e0000000000000000")
PLACE: dict[str, Any] = {"hub": "main", "system": "demo-hpc", "session": STORY.session}
PORTS = (20_000, 32_000)


def _recorded(*events: SessionEvent) -> None:
    """Whatever a part makes of an input, the log must be able to take."""
    for event in events:
        stamped = stamp()(event, after=1, cause=None)
        again = decode(encode(stamped))
        assert again == stamped, f"{stamped!r} comes back as {again!r}"


def message(data: bytes) -> None:
    """A body of the log, by anybody who may publish."""
    try:
        read = decode(data)
    except UndecodableError:
        return
    assert decode(encode(read)) == read
    assert all(value.isprintable() and value.isascii() for value in cloudevents_headers(read).values())


def subject(data: bytes) -> None:
    """A subject, and a user's name as it would stand in one."""
    text = data.decode(errors="replace")
    with contextlib.suppress(SubjectError):
        Subjects().parse_session(text)
    token = slug(text)
    assert token.isascii()
    assert not set(token) & set(".*> \t\r\n")


def site_reply(data: bytes) -> None:
    """A job's properties and the batch system's details, as a site that lies would word them."""
    try:
        said = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return
    documents.job_id(said)
    if not isinstance(said, dict):
        return
    documents.storage_id(said)
    details = said.get("details")
    report = documents.report(said, details if isinstance(details, dict) else None)
    request = STORY.requested()
    match report:
        case ports.Finished() as finished:
            outcome, reason, remedy = judge(request, finished, NOW, NOW)
            tail = msgspec.structs.replace(ended(request, "failed", "").log_tail, site=finished.log)
            _recorded(ended(request, outcome, reason, remedy, exit_code=finished.exit_code, log_tail=tail))
        case ports.Queued(place_in_queue=place, estimated_start=start, words=words):
            status = Queued(place_in_queue=place, estimated_start=start)
            _recorded(JobStatusChanged(**PLACE, job_status=status, words=words[:1024]))
        case ports.Unknown(evidence=evidence):
            _recorded(ended(request, "lost", f"says nothing of the job any more: {evidence}"))
        case _:
            pass


def job_output(data: bytes) -> None:
    """What a job writes for the launcher to read: progress and endpoint."""
    lines, done = script.progress_lines(data)
    assert 0 <= done <= len(data)
    _recorded(*[ProgressReported(**PLACE, percent=line.percent, message=line.message) for line in lines])
    said = script.endpoint(data, PORTS)
    if said is not None:
        assert PORTS[0] <= said.port <= PORTS[1]
        _recorded(ServerListening(**PLACE, host=said.host, port=said.port))
        target(said.host.encode())


def target(data: bytes) -> None:
    """An address that a job announces: only the system's own network is ever allowed."""
    host = data.decode(errors="replace")
    try:
        check_target(host, 20_000, networks=["10.11.0.0/16"], ports=PORTS, hosts=[r"node\d+"])
    except RefusedTargetError:
        return
    assert host.startswith(("10.11.", "node", "::ffff:")), host


def configuration(data: bytes) -> None:
    """A `farlab.toml`, entitlements of configured users included: understood, or one line."""
    folder = _installation()
    file = folder / "farlab.toml"
    file.write_bytes(data)
    try:
        accounts_settings(load(file))
    except ConfigurationError as error:
        assert "\n" not in str(error), str(error)


def system_file(data: bytes) -> None:
    """A file of the system catalogue."""
    folder = _installation()
    file = folder / "other" / "demo-hpc.toml"
    file.write_bytes(data)
    (folder / "whole.toml").write_text('[installation]\nsystems_folder = "other"\n')
    try:
        load(folder / "whole.toml")
    except ConfigurationError as error:
        assert "\n" not in str(error), str(error)


def sealed(data: bytes) -> None:
    """An entry of the vault that somebody put there."""
    vault = _vault()
    try:
        vault.unseal(data, dict)
    except PermanentError:
        return
    raise AssertionError("something opened that was never sealed")


@cache
def _installation() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="farlab-fuzz-"))
    (folder / "systems").mkdir()
    (folder / "other").mkdir()
    (folder / "systems" / "demo-hpc.toml").write_text((ROOT / "systems" / "demo-hpc.toml").read_text())
    return folder


@cache
def _vault() -> Vault:
    make_keys(_installation() / "keys")
    return Vault(MemoryBucket(), _installation() / "keys", "tunneler")


TARGETS: dict[str, Callable[[bytes], None]] = {
    each.__name__: each
    for each in (message, subject, site_reply, job_output, target, configuration, system_file, sealed)
}


def seeds(name: str) -> Iterable[bytes]:
    """Inputs to begin with, so that a fuzzer need not invent our formats."""
    match name:
        case "message":
            for file in sorted((ROOT / "schemas" / "published").glob("*.json")):
                if not file.name.endswith(".schema.json"):
                    yield file.read_bytes()
        case "subject":
            yield Subjects().session_event(stamp()(STORY.requested(), after=0, cause=None)).encode()
        case "site_reply":
            now = NOW.isoformat()
            for status in ("READY", "QUEUED", "RUNNING", "SUCCESSFUL", "FAILED", "STAGINGIN", "OTHER"):
                details = {"JobState": "PENDING", "Reason": "Priority", "StartTime": now, "QueuePosition": "3"}
                raw = {"rawDetailsData": f"JobState=PENDING Reason=Resources StartTime={now}"}
                links = {"workingDirectory": {"href": "https://x/rest/core/storages/1b2c"}}
                for told in (details, raw):
                    yield msgspec.json.encode(
                        {
                            "status": status,
                            "statusMessage": "said",
                            "exitCode": "0",
                            "log": ["line", "line"],
                            "_links": links,
                            "details": told,
                        }
                    )
        case "job_output":
            yield b'{"percent": 10, "message": "Loading software"}\n{"percent": 90, "message": "x"}\n'
            yield b'{"host": "127.30.0.11", "port": 20001}'
        case "target":
            yield from (b"10.11.3.4", b"node17", b"::1", b"169.254.169.254", b"::ffff:10.11.0.1", b"127.0.0.1")
        case "configuration":
            yield (ROOT / "farlab.toml").read_bytes()
        case "system_file":
            yield (ROOT / "systems" / "demo-hpc.toml").read_bytes()
        case "sealed":
            yield _vault().seal("accounts", {"a": 1}).encode()
        case _:
            yield b""
