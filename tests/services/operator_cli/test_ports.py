"""The ports an installation keeps: its own at every start, and nobody else's."""

from __future__ import annotations

import socket
from pathlib import Path

import msgspec
import pytest

from schemas.base import SystemName
from services._runtime.configuration import ConfigurationError
from services._runtime.systems import Emulated
from services.operator_cli.state_folder import Ports, StateFolder
from tests.support.catalogue import system

NAME = SystemName("demo-hpc")


def ports(folder: Path, public_port: int = 0, login_node: str = "127.30.0.1") -> Ports:
    stand_in = Emulated(login_node=login_node, compute_nodes=["127.30.0.11"])
    return StateFolder(folder).ports({NAME: msgspec.structs.replace(system(NAME), emulated=stand_in)}, public_port)


def test_they_are_all_different_and_the_same_at_the_next_start(tmp_path: Path) -> None:
    first = ports(tmp_path)
    assert len({first.nats, first.hub, first.hub_api, first.proxy_api, first.launcher, first.site[NAME]}) == 6
    assert first.login[NAME] != first.remote_forward[NAME]
    assert ports(tmp_path) == first


def test_one_that_another_program_took_meanwhile_is_replaced_and_the_others_stay(tmp_path: Path) -> None:
    first = ports(tmp_path)
    with socket.create_server(("127.0.0.1", first.nats)):
        second = ports(tmp_path)
    assert second.nats != first.nats
    assert (second.hub, second.launcher, second.site) == (first.hub, first.launcher, first.site)


def test_a_public_port_that_is_taken_is_refused_and_not_replaced(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigurationError, match=f"port {port} is taken by another program; name another"):
            ports(tmp_path, port)


def test_an_address_that_is_not_of_this_machine_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"no port of 192\.0\.2\.1 can be taken: .*one of this machine\?"):
        ports(tmp_path, login_node="192.0.2.1")


@pytest.mark.parametrize("content", ["", "{", "[]", '{"nats": "x"}'])
def test_a_damaged_list_is_made_anew(tmp_path: Path, content: str) -> None:
    (tmp_path / "ports.json").write_text(content)
    made = ports(tmp_path)
    assert msgspec.json.decode((tmp_path / "ports.json").read_bytes(), type=Ports) == made


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="cannot be made: Not a directory; name another folder with --state"):
        StateFolder(tmp_path / "file" / "state")
