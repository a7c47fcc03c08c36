"""The folder that keeps an installation: one user at a time, the same ports and secrets at every start."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from schemas.base import SystemName
from services._runtime.configuration import ConfigurationError
from services._runtime.memory import MemoryBucket
from services._runtime.settings import load
from services._runtime.systems import Emulated
from services._runtime.vault import Vault
from services.operator_cli.state_folder import Ports, StateFolder
from tests.support.catalogue import system
from tests.support.running import ROOT

EMULATED = Emulated(login_node="127.30.0.1", compute_nodes=["127.30.0.11"])
SYSTEMS = {SystemName("demo-hpc"): msgspec.structs.replace(system(), emulated=EMULATED)}
PORTS = Ports(nats=4222)


def mode(file: Path) -> int:
    return stat.S_IMODE(file.stat().st_mode)


def test_a_folder_in_use_is_refused_in_one_line_and_free_when_its_user_died(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from services.operator_cli.state_folder import StateFolder\n"
        "with StateFolder(Path(sys.argv[1])).lock(): print('locked', flush=True); time.sleep(600)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "state")], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "locked\n"
        state = StateFolder(tmp_path / "state")
        with pytest.raises(ConfigurationError) as refused, state.lock():
            pass
        assert str(refused.value).startswith(f"{tmp_path / 'state'}: another `farlab up` uses this folder; stop it")
        assert "\n" not in str(refused.value)
        assert (tmp_path / "state" / "lock").read_text() == str(other.pid), "the owner's id is left as it was"
        other.kill()
        other.wait(10)
    with state.lock():
        assert (tmp_path / "state" / "lock").read_text() == str(os.getpid())


def test_ports_are_all_different_and_the_same_at_the_next_start(tmp_path: Path) -> None:
    first = StateFolder(tmp_path).ports(SYSTEMS, 0)
    listed = [first.nats, first.hub, first.hub_api, first.proxy_api, first.launcher, first.site["demo-hpc"]]
    assert len(set(listed)) == 6
    assert first.login["demo-hpc"] != first.remote_forward["demo-hpc"]
    assert StateFolder(tmp_path).ports(SYSTEMS, 0) == first


def test_a_port_another_program_took_meanwhile_is_replaced_and_the_others_stay(tmp_path: Path) -> None:
    first = StateFolder(tmp_path).ports(SYSTEMS, 0)
    with socket.create_server(("127.0.0.1", first.nats)):
        second = StateFolder(tmp_path).ports(SYSTEMS, 0)
    assert second.nats != first.nats
    assert (second.hub, second.launcher, second.site) == (first.hub, first.launcher, first.site)


def test_a_public_port_that_is_taken_is_refused_and_not_replaced(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigurationError, match=f"port {port} is taken by another program; name another"):
            StateFolder(tmp_path).ports(SYSTEMS, port)
    assert StateFolder(tmp_path).ports(SYSTEMS, port).hub == port


def test_an_address_that_is_not_of_this_machine_is_said(tmp_path: Path) -> None:
    stand_in = Emulated(login_node="192.0.2.1", compute_nodes=[])
    elsewhere = {name: msgspec.structs.replace(each, emulated=stand_in) for name, each in SYSTEMS.items()}
    with pytest.raises(ConfigurationError, match=r"no port of 192\.0\.2\.1 can be taken: .*one of this machine\?"):
        StateFolder(tmp_path).ports(elsewhere, 0)


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="cannot be made: Not a directory; name another folder with --state"):
        StateFolder(tmp_path / "file" / "state")


@pytest.mark.parametrize("content", ["", "{", "[]", '{"nats": "x"}'])
def test_a_damaged_list_of_ports_is_made_anew(tmp_path: Path, content: str) -> None:
    (tmp_path / "ports.json").write_text(content)
    ports = StateFolder(tmp_path).ports(SYSTEMS, 0)
    assert msgspec.json.decode((tmp_path / "ports.json").read_bytes(), type=Ports) == ports


def test_every_secret_is_for_its_owner_alone_and_stays(tmp_path: Path) -> None:
    state = StateFolder(tmp_path / "state")
    state.make_keys()
    secrets = [state.secret(name) for name in ("password", "operator.token", "proxy.token")]
    file = tmp_path / "farlab.toml"
    (tmp_path / "systems").mkdir()
    (tmp_path / "systems" / "demo-hpc.toml").write_text((ROOT / "systems" / "demo-hpc.toml").read_text())
    file.write_text("")
    state.write_nats_configuration(load(file), PORTS)
    public = (".pub", ".pub.pem", ".public.json")
    private = [each for each in state.path.rglob("*") if each.is_file() and not each.name.endswith(public)]
    assert {each.name for each in private} >= {"id_ed25519", "delegation.pem", "password", "accounts.nk", "nats.conf"}
    assert {mode(each) for each in private} == {0o600}
    assert {mode(each) for each in (state.path, state.path / "keys", state.path / "nkeys")} == {0o700}
    before = {each: each.read_bytes() for each in private}
    again = StateFolder(tmp_path / "state")
    again.make_keys()
    again.write_nats_configuration(load(file), PORTS)
    assert [again.secret(name) for name in ("password", "operator.token", "proxy.token")] == secrets
    assert {each: each.read_bytes() for each in private} == before
    assert len(set(secrets)) == 3


def test_the_brokers_configuration_holds_public_keys_only(tmp_path: Path) -> None:
    (tmp_path / "systems").mkdir()
    (tmp_path / "systems" / "demo-hpc.toml").write_text((ROOT / "systems" / "demo-hpc.toml").read_text())
    (tmp_path / "farlab.toml").write_text("")
    state = StateFolder(tmp_path / "state")
    text = state.write_nats_configuration(load(tmp_path / "farlab.toml"), PORTS).read_text()
    for seed in (state.path / "nkeys").glob("*.nk"):
        assert seed.read_text().strip() not in text
    assert "sync_interval: always" in text
    assert 'listen: "127.0.0.1:4222"' in text


def test_keys_of_a_state_folder_open_what_is_sealed_with_them(tmp_path: Path) -> None:
    StateFolder(tmp_path).make_keys()
    vault = Vault(MemoryBucket(), tmp_path / "keys", "tunneler")
    assert vault.unseal(vault.seal("tunneler", {"a": 1}), dict) == {"a": 1}
