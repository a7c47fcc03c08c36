"""What an operator reads when a setting is wrong: one line with file, key, value and remedy."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import pytest
from msgspec import Meta

from services._runtime.configuration import ConfigurationError, convert, read_toml
from services._runtime.settings import Configuration, load
from services._runtime.systems import DirectReach, SshReach, load_system, load_systems
from tests.support.running import ROOT

GOOD = (ROOT / "systems" / "demo-hpc.toml").read_text()


def write(folder: Path, text: str = "", system: str = GOOD, name: str = "demo-hpc") -> Path:
    (folder / "systems").mkdir(exist_ok=True)
    (folder / "systems" / f"{name}.toml").write_text(system)
    (folder / "farlab.toml").write_text(text)
    return folder / "farlab.toml"


def refused(file: Path) -> str:
    with pytest.raises(ConfigurationError) as error:
        load(file)
    assert "\n" not in str(error.value)
    assert error.value.__cause__ is None
    return str(error.value)


def test_an_empty_file_is_a_whole_configuration(tmp_path: Path) -> None:
    configuration = load(write(tmp_path))
    assert configuration.file == tmp_path / "farlab.toml"
    assert configuration.shared.nats.servers == ["nats://127.0.0.1:4222"]
    assert configuration.subjects.root == "farlab.v1"
    assert configuration.keys_folder == tmp_path / "keys"
    assert list(configuration.systems) == ["demo-hpc"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[nats]\nserver = []\n", 'nats.server is not a setting; did you mean "servers"?'),
        ("[natz]\n", 'natz is not a setting; did you mean "nats"?'),
        ("zzzzzz = 1\n", "zzzzzz is not a setting; remove it, or see"),
        ("[nats]\nservers = 4222\n", "nats.servers = 4222: expected `array`, got `int`"),
        (
            '[nats]\nservers = ["nats://user:word@host:4222"]\n',
            "nats.servers[0] = 'nats://***@host:4222': expected `str`",
        ),
        ("[nats]\nconnect_seconds = 0\n", "nats.connect_seconds = 0: expected `float` > 0.0"),
        ('[installation]\nprefix = "Farlab"\n', "installation.prefix = 'Farlab': expected `str` matching"),
        ('[logs]\nlevel = "loud"\n', "logs.level = 'loud': invalid enum value 'loud'"),
        ("[retention]\nreplicas = true\n", "retention.replicas = True: expected `int`, got `bool`"),
        ("tunneler = 1\n", "tunneler = 1: must be a table; write [tunneler]"),
        ("[nats\n", "not TOML: "),
    ],
)
def test_what_is_wrong_is_said_with_its_key_and_what_would_be_right(tmp_path: Path, text: str, said: str) -> None:
    file = write(tmp_path, text)
    message = refused(file)
    assert message.startswith(f"{file}: ")
    assert said in message


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("max_nodes = 4", "max_node = 4", 'max_node is not a setting; did you mean "max_nodes"?'),
        ("max_nodes = 4", "max_nodes = 0", "max_nodes = 0: expected `int` >= 1"),
        ("max_nodes = 4", "max_nodes = 0", "partitions.batch.max_nodes = 0"),
        ("max_nodes = 4", "max_node = 4", "partitions.batch.max_node is not a setting"),
        ('title = "', 'titel = "', "titel"),
        ('reach = "ssh"', 'reach = "shh"', "shh"),
    ],
)
def test_a_systems_file_is_checked_as_well(tmp_path: Path, old: str, new: str, said: str) -> None:
    assert old in GOOD
    message = refused(write(tmp_path, system=GOOD.replace(old, new, 1)))
    assert message.startswith(f"{tmp_path / 'systems' / 'demo-hpc.toml'}: ")
    assert said in message


def test_a_system_is_checked_for_what_no_type_says(tmp_path: Path) -> None:
    (tmp_path / "systems").mkdir()

    def said(old: str, new: str) -> str:
        assert old in MINIMAL
        (tmp_path / "systems" / "juwels.toml").write_text(MINIMAL.replace(old, new))
        with pytest.raises(ConfigurationError) as error:
            load_systems(tmp_path / "systems")
        return str(error.value)

    assert "partitions is empty; add at least one" in said("[partitions.batch]\n", "[partitions]\n")
    assert "must lie between min_runtime_seconds (60) and max_runtime_seconds (100)" in said(
        "[partitions.batch]\n", "[partitions.batch]\nmax_runtime_seconds = 100\n"
    )
    assert "reservations.course is for nobody; name projects or accounts" in said(
        "[partitions.batch]", "[reservations.course]\n[partitions.batch]"
    )
    assert "reservations.course.partitions = 'devel': not a partition; there are: batch" in said(
        "[partitions.batch]", '[reservations.course]\nprojects = ["z"]\npartitions = ["devel"]\n[partitions.batch]'
    )
    slurm = 'backend = "slurm"\nlogin_nodes = ["a:22"]\nkey_file = "k"\nknown_hosts_file = "h"\nquery_account = "q"\n'
    site = MINIMAL[MINIMAL.index("[site]") + 7 : MINIMAL.index("[partitions")]
    assert "site.qos.devel: not a partition; there are: batch" in said(site, f'{slurm}qos = {{devel = "fast"}}\n')
    rest = 'rest = {jwt_key_file = "j", url = "%s"}\n'
    assert "site.rest.url = 'http://slurm.example:6820': tokens would pass in the clear" in said(
        site, slurm + rest % "http://slurm.example:6820"
    )
    assert "site.rest.url" in said(site, slurm + rest % "https://user@slurm.example")
    assert "write it as 10.11.0.0/16" in said('["10.0.0.0/8"]', '["10.0.0.1/8"]')
    assert "job.ports = [9000, 8000]" in said("[site]", "[job]\nports = [9000, 8000]\n[site]")
    (tmp_path / "systems" / "juwels.toml").unlink()
    with pytest.raises(ConfigurationError, match="no system is configured; put one file a system there"):
        load_systems(tmp_path / "systems")


MINIMAL = """
title = "JUWELS"
[reach]
reach = "direct"
networks = ["10.0.0.0/8"]
[site]
backend = "unicore"
url = "https://unicore.example/JUWELS/rest/core"
issuer_dn = "CN=Farlab"
delegation_key_file = "../keys/delegation.pem"
[partitions.batch]
"""


def test_a_system_is_named_by_its_file_and_its_files_count_from_there(tmp_path: Path) -> None:
    (tmp_path / "juwels.toml").write_text(MINIMAL)
    system = load_system(tmp_path / "juwels.toml")
    assert (system.name, system.site.ca_file) == ("juwels", "")
    assert system.site.delegation_key_file == str(tmp_path / "../keys/delegation.pem")
    assert isinstance(system.reach, DirectReach)
    (tmp_path / "Juwels Booster.toml").write_text(MINIMAL)
    with pytest.raises(ConfigurationError, match="lower-case letters, digits and dashes; rename it"):
        load_system(tmp_path / "Juwels Booster.toml")


def test_keys_of_an_ssh_reach_count_from_the_systems_folder(tmp_path: Path) -> None:
    text = MINIMAL.replace(
        'reach = "direct"',
        'reach = "ssh"\nlogin_nodes = ["login:22"]\nuser = "farlab"\nkey_file = "id"\nknown_hosts_file = "/etc/known"',
    )
    (tmp_path / "juwels.toml").write_text(text)
    reach = load_system(tmp_path / "juwels.toml").reach
    assert isinstance(reach, SshReach)
    assert (reach.key_file, reach.known_hosts_file) == (str(tmp_path / "id"), "/etc/known")


class Own(msgspec.Struct, forbid_unknown_fields=True):
    """A service's own table."""

    check_seconds: Annotated[float, Meta(gt=0)] = 5.0
    name: str = "x"


def test_a_services_own_table_is_checked_by_the_service(tmp_path: Path) -> None:
    configuration = load(write(tmp_path, "[tunneler]\ncheck_seconds = -1\n"))
    assert configuration.section("accounts", Own) == Own()
    with pytest.raises(ConfigurationError, match=r"farlab\.toml: tunneler\.check_seconds = -1: expected `float` > 0"):
        configuration.section("tunneler", Own)
    configuration = load(write(tmp_path, "[tunneler]\ncheck_second = 1\n"))
    with pytest.raises(
        ConfigurationError, match=r'tunneler\.check_second is not a setting; did you mean "check_seconds"'
    ):
        configuration.section("tunneler", Own)


class Site(msgspec.Struct):
    """One of many."""

    url: str


class Many(msgspec.Struct):
    """Tables in lists and in tables."""

    sites: list[Site] = []
    named: dict[str, dict[str, Site]] = {}


@pytest.mark.parametrize(
    ("tables", "said"),
    [
        ({"sites": [{"url": "x"}, {}]}, "a.toml: sites[1].url is missing; add it"),
        ({"sites": [{"url": "x"}, {"url": 2}]}, "a.toml: sites[1].url = 2: expected `str`, got `int`"),
        ({"named": {"a": {"b": {"url": "x"}}, "c": {"d": {}}}}, "a.toml: named.c.d.url is missing; add it"),
        (
            {"named": {"a": {"b": {"url": "x"}, "c": {"url": 3}}}},
            "a.toml: named.a.c.url = 3: expected `str`, got `int`",
        ),
        ({"named": {"a": 7}}, "a.toml: named.a = 7: expected `object`, got `int`"),
    ],
)
def test_a_setting_in_a_list_or_a_named_table_is_found_there(tables: object, said: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        convert(tables, Many, file=Path("a.toml"))
    assert str(error.value) == said


def test_files_that_cannot_be_read_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no such file"):
        read_toml(tmp_path / "none.toml")
    with pytest.raises(ConfigurationError, match="cannot be read: Is a directory"):
        read_toml(tmp_path)
    (tmp_path / "latin.toml").write_bytes('a = "\xe4"'.encode("latin-1"))
    with pytest.raises(ConfigurationError, match="save it as UTF-8"):
        read_toml(tmp_path / "latin.toml")


def test_a_configuration_is_found_from_wherever_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert isinstance(load(Path("farlab.toml")), Configuration)
    assert load(Path("farlab.toml")).file.is_absolute()
