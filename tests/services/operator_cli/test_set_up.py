"""From nothing to a running broker with the commands an operator types, and what support is told."""

from __future__ import annotations

import asyncio
import io
import json
import stat
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from typer.testing import CliRunner

from services._runtime import topology
from services._runtime.settings import Configuration, load
from services.operator_cli.__main__ import app
from services.operator_cli.set_up.first_files import Answers, files
from services.operator_cli.set_up.reach import findings
from services.operator_cli.set_up.support import bundle, log_lines, redacted
from tests.services.operator_cli.conftest import signed_in
from tests.services.operator_cli.test_reading_commands import farlab, listening
from tests.support.running import ROOT
from tests.support.samples import NOW

GIVEN = {
    "--system": "juwels",
    "--title": 'JUWELS "Booster"',
    "--url": "https://uc.example.org:8080/JUWELS/rest/core",
    "--issuer-dn": "CN=Farlab",
    "--login-node": "login.example.org:22",
    "--networks": "10.11.0.0/16, 10.12.0.0/16",
    "--partition": "batch",
}


def typed(*arguments: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, list(arguments))
    return done.exit_code, done.stdout, done.stderr


def test_init_writes_what_can_be_loaded_and_leaves_alone_what_is_there(tmp_path: Path) -> None:
    options = [word for pair in GIVEN.items() for word in pair]
    code, _, err = typed("init", str(tmp_path), *options)
    assert code == 0, err
    system = load(tmp_path / "farlab.toml").systems["juwels"]  # type: ignore[index]
    assert (system.title, list(system.partitions)) == ('JUWELS "Booster"', ["batch"])
    assert system.reach.networks == ["10.11.0.0/16", "10.12.0.0/16"]
    assert stat.S_IMODE((tmp_path / "keys" / "accounts.ids").stat().st_mode) == 0o600
    code, _, err = typed("init", str(tmp_path), *options)
    assert (code, "is there already, and is left alone" in err.replace("\n", " ")) == (2, True)
    code, _, err = typed("init", str(tmp_path / "other"), *options[2:])
    assert (code, "--system is missing" in err) == (2, True)
    code, _, err = typed("init", str(tmp_path / "other"), *options, "--url", "ftp://x")
    assert (code, "--url ftp://x" in err) == (2, True)
    assert not (tmp_path / "other").exists()


def test_a_site_without_ssh_is_set_up_too(tmp_path: Path) -> None:
    answers = Answers(
        system="cloudy",
        title="C",
        url="https://x/rest/core",
        issuer_dn="CN=F",
        reach="direct",
        networks=["10.0.0.0/8"],
        partition="p.q",
    )
    for name, text in files(answers).items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert list(load(tmp_path / "farlab.toml").systems["cloudy"].partitions) == ["p.q"]  # type: ignore[index]


async def test_from_nothing_to_streams_on_a_server_of_our_own(tmp_path: Path) -> None:
    options = [word for pair in GIVEN.items() for word in pair]
    done = await asyncio.to_thread(typed, "init", str(tmp_path), *options)
    assert done[0] == 0
    file, nats = tmp_path / "farlab.toml", tmp_path / "nats"
    code, out, err = await asyncio.to_thread(typed, "nats-config", "--to", str(nats), "--config", str(file))
    assert (code, "accounts.nk" in out) == (0, True), err
    first = (nats / "nats.conf").read_text()
    await asyncio.to_thread(typed, "nats-config", "--to", str(nats), "--config", str(file))
    assert (nats / "nats.conf").read_text() == first, "written again it is the same: keys that are there are kept"
    (nats / "nats.conf").write_text(first.replace(":4222", ":-1"))
    command = [str(Path(sys.executable).parent / "nats-server"), "-c", str(nats / "nats.conf")]
    with (tmp_path / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            async with asyncio.timeout(20):
                while not (url := listening(nats)):
                    assert process.poll() is None, (tmp_path / "log").read_text()
                    await asyncio.sleep(0.01)
            file.write_text(file.read_text().replace("nats://127.0.0.1:4222", url))
            missing = await farlab(file, "streams", "check", "--json")
            assert (missing[0], "SESSIONS" in {each["stream"] for each in json.loads(missing[1])}) == (1, True)
            unasked = await farlab(file, "streams", "apply")
            assert (unasked[0], "add --yes" in unasked[2]) == (2, True)
            applied = await farlab(file, "streams", "apply", "--yes")
            assert (applied[0], "differences are closed" in applied[1]) == (0, True), applied
            assert (await farlab(file, "streams", "check"))[0] == 0
        finally:
            process.terminate()
            process.wait(10)


async def test_a_server_of_a_cluster_is_configured_whole_or_not_at_all(tmp_path: Path) -> None:
    options = [word for pair in GIVEN.items() for word in pair]
    await asyncio.to_thread(typed, "init", str(tmp_path), *options)
    command = ["nats-config", "--config", str(tmp_path / "farlab.toml"), "--to", str(tmp_path / "nats")]
    refused = await asyncio.to_thread(typed, *command, "--certificate", "server.pem")
    assert (refused[0], "say all three, or none" in refused[2]) == (2, True)
    refused = await asyncio.to_thread(typed, *command, "--route", "nats-1:6222")
    assert (refused[0], "--name is missing" in refused[2]) == (2, True)
    assert not (tmp_path / "nats").exists()
    tls = ["--certificate", "/c.pem", "--key", "/c.key", "--ca", "/ca.pem"]
    routes = ["--name", "nats-1", "--route", "nats-1:6222", "--route", "nats-2:6222"]
    whole = await asyncio.to_thread(
        typed, *command, *tls, *routes, "--data", "/srv/nats", "--monitor", "127.0.0.1:8222"
    )
    assert whole[0] == 0, whole
    text = (tmp_path / "nats" / "nats.conf").read_text()
    for line in (
        'server_name: "nats-1"',
        'http: "127.0.0.1:8222"',
        '  routes: ["nats://nats-1:6222", "nats://nats-2:6222"]',
        '  store_dir: "/srv/nats/jetstream"',
    ):
        assert line in text.splitlines()
    assert text.count('cert_file: "/c.pem"') == 2, "for clients, and between servers"
    assert text.count("verify: true") == 1, "servers prove themselves to each other by certificate, clients by nkey"


async def test_every_part_that_can_be_asked_is_asked_and_told_apart(guarded: Configuration) -> None:
    found = {each.asked: each.problem for each in await findings(guarded)}
    assert [asked for asked, problem in found.items() if not problem and asked.startswith("NATS as")] == [
        f"NATS as {service}" for service in ("hub-bridge", "accounts", "hpc-launcher", "tunneler", "operator-cli")
    ]
    assert found["streams and buckets"] == ""
    assert "delegation.pem" in found["site of demo-hpc"]
    assert found["login node 127.30.0.2:22 of demo-hpc"]
    assert found["SSH files of demo-hpc"]
    (guarded.keys_folder / "accounts.ids").chmod(0o644)
    found = {each.asked: each.problem for each in await findings(guarded)}
    assert "chmod 600" in found["keys of accounts"]


async def test_a_stream_that_was_changed_is_a_difference_and_comparing_changes_nothing(guarded: Configuration) -> None:
    retention = guarded.shared.retention
    async with signed_in(guarded, "operator-cli") as broker:
        js = broker.log.js
        assert await topology.compare(js, guarded.subjects, retention) == []
        [wanted, *_] = topology.streams(guarded.subjects, retention)
        await js.update_stream(wanted.evolve(max_age=3600.0))
        for _ in range(2):
            [difference] = await topology.compare(js, guarded.subjects, retention)
            assert (difference.stream, difference.setting) == ("SESSIONS", "max_age")


def test_support_is_told_no_person_address_or_secret(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    line = {"level": "error", "event": "dead letter", "reason": "ada's canary", "user": "ada", "session": "01x"}
    (tmp_path / "logs" / "accounts.log").write_text(json.dumps(line) + "\nTraceback canary\n")
    content = bundle(load(ROOT / "farlab.toml"), [], {"demo-hpc ready": 1}, {}, tmp_path / "logs", NOW)
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        texts = {each.name: tar.extractfile(each).read().decode() for each in tar}  # type: ignore[union-attr]
    whole = "".join(texts.values())
    for personal in ("ada", "Lovelace", "canary", "127.0.0.1", "127.30.0", "CN="):
        assert personal not in whole.replace("metadata", ""), personal
    assert json.loads(texts["farlab-support/sessions.json"]) == {"demo-hpc ready": 1}
    assert json.loads(texts["farlab-support/logs/accounts.json"])[0] == {"level": "error", "event": "dead letter"}
    assert "nats-py" in json.loads(texts["farlab-support/versions.json"])


def test_what_is_left_out_keeps_its_shape() -> None:
    told = redacted({"nats": {"servers": ["nats://x"], "connect_seconds": 3}, "tunneler": {"key_file": "k"}})
    assert told == {
        "nats": {"servers": "(list, left out)", "connect_seconds": 3},
        "tunneler": {"key_file": "(str, left out)"},
    }
    assert log_lines(["no json"]) == [{"lines_that_are_no_json": 1}]


@pytest.mark.parametrize("value", ["nowhere", "/proc/nowhere"])
def test_a_folder_that_cannot_be_written_is_one_line(value: str, tmp_path: Path) -> None:
    options = [word for pair in GIVEN.items() for word in pair]
    folder = Path("/proc/nowhere") if value.startswith("/proc") else tmp_path / "file" / "x"
    (tmp_path / "file").write_text("")
    code, _, err = typed("init", str(folder), *options)
    assert (code, "cannot be written" in err.replace("\n", " ")) == (2, True)
