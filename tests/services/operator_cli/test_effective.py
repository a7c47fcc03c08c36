"""The configuration `farlab up` writes: every address filled in, what the operator wrote kept, no secret in it."""

from __future__ import annotations

import json
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from emulators.login_node.node import load as load_login_node
from emulators.unicore_site.configuration import load as load_site
from schemas.base import SystemName
from services._runtime.settings import Configuration, load
from services._runtime.systems import DirectReach, SshReach
from services.operator_cli.effective import site_users, users_by_claims, write_configuration, write_emulators
from services.operator_cli.state_folder import StateFolder
from tests.support.running import ROOT

DEMO = SystemName("demo-hpc")


def source(folder: Path, **changes: Any) -> Configuration:
    """The default configuration in a folder of its own, with changes to its system's tables."""
    (folder / "systems").mkdir(parents=True)
    (folder / "farlab.toml").write_text((ROOT / "farlab.toml").read_text())
    system = tomllib.loads((ROOT / "systems" / "demo-hpc.toml").read_text())
    for name, table in changes.items():
        if table is None:
            del system[name]
        else:
            system[name] = table
    (folder / "systems" / "demo-hpc.toml").write_text(tomli_w.dumps(system))
    return load(folder / "farlab.toml")


def effective(folder: Path, configuration: Configuration) -> tuple[StateFolder, Configuration]:
    """The effective configuration, with emulators that have said where they listen."""
    state = StateFolder(folder / "state")
    state.make_keys()
    ports = state.ports(configuration.systems, 0)
    sites = write_emulators(state, configuration, ports)
    for name, site in sites.items():
        for part in ("login", "site"):
            site.told(part).parent.mkdir()
        site.told("login").write_text(json.dumps({"host": "127.30.0.2", "port": ports.login[name]}))
        base = f"https://127.0.0.1:{ports.site[name]}/DEMO/rest/core"
        site.told("site").write_text(json.dumps({"base_url": base, "ca": str(site.folder / "site" / "ca.pem")}))
    return state, write_configuration(state, configuration, ports, sites)


def test_every_address_is_filled_in_and_the_rest_is_the_operators(tmp_path: Path) -> None:
    state, written = effective(tmp_path, source(tmp_path / "given"))
    ports = state.ports(written.systems, 0)
    system = written.systems[DEMO]
    assert written.file == state.configuration_file
    assert written.shared.nats.servers == [f"nats://127.0.0.1:{ports.nats}"]
    assert system.site.url == f"https://127.0.0.1:{ports.site[DEMO]}/DEMO/rest/core"
    assert system.site.notifications_url == f"http://127.0.0.1:{ports.launcher}"
    assert isinstance(system.reach, SshReach)
    assert system.reach.login_nodes == [f"127.30.0.2:{ports.login[DEMO]}"]
    assert system.reach.remote_forward is not None
    assert system.reach.remote_forward.hub_port == ports.hub_api
    assert system.job.hub_api_url == f"http://127.30.0.2:{ports.remote_forward[DEMO]}/hub/api"
    assert system.job.python == sys.executable
    assert system.partitions == load(ROOT / "farlab.toml").systems[DEMO].partitions
    assert written.sections["accounts"] == load(ROOT / "farlab.toml").sections["accounts"]
    assert written.sections["hub_bridge"]["users"] == ["ada", "ben", "cleo"]
    for file in (system.site.delegation_key_file, system.reach.key_file):
        assert Path(file).is_relative_to(state.path)


def test_no_secret_stands_in_what_services_read(tmp_path: Path) -> None:
    state, _ = effective(tmp_path, source(tmp_path / "given"))
    secrets = [state.secret(name) for name in ("password", "operator.token", "proxy.token")]
    secrets += [file.read_text() for file in (state.path / "keys").glob("*.pem") if "pub" not in file.name]
    texts = [file.read_text() for file in state.path.rglob("*.toml")]
    assert len(texts) == 4
    assert not any(secret in text for secret in secrets for text in texts)


def test_the_emulators_understand_what_they_are_told(tmp_path: Path) -> None:
    state, written = effective(tmp_path, source(tmp_path / "given"))
    ports = state.ports(written.systems, 0)
    login = load_login_node(state.path / "sites" / DEMO / "login.toml")
    assert (login.host, login.port, login.user) == ("127.30.0.2", ports.login[DEMO], "farlab")
    assert login.listen == [f"127.30.0.2:{ports.remote_forward[DEMO]}"]
    site = load_site(state.path / "sites" / DEMO / "site.toml")
    assert site.port == ports.site[DEMO]
    assert {name: queue.max_nodes for name, queue in site.queues.items()} == {"batch": 4, "devel": 1}
    assert {user.dn: user.uids for user in site.users} == {
        "CN=Ada Lovelace,O=Farlab Demo": ["lovelace1", "lovelace2"],
        "CN=Ben Johnson,O=Farlab Demo": ["johnson1"],
        "CN=Cleo Curie,O=Farlab Demo": ["curie1"],
    }


def test_a_real_system_keeps_its_files_where_they_are(tmp_path: Path) -> None:
    given = source(tmp_path / "given", emulated=None)
    state, written = effective(tmp_path, given)
    assert not (state.path / "sites").exists()
    assert written.systems[DEMO] == given.systems[DEMO]
    assert written.systems[DEMO].site.delegation_key_file == str(tmp_path / "given" / "systems" / "delegation.pem")


def test_an_emulated_system_without_a_login_node_is_reached_directly(tmp_path: Path) -> None:
    given = source(tmp_path / "given", reach={"reach": "direct", "networks": ["127.30.0.0/24"]})
    state, written = effective(tmp_path, given)
    assert not (state.path / "sites" / DEMO / "login.toml").exists()
    assert isinstance(written.systems[DEMO].reach, DirectReach)
    hub_api = state.ports(written.systems, 0).hub_api
    assert written.systems[DEMO].job.hub_api_url == f"http://127.0.0.1:{hub_api}/hub/api"


def test_a_system_taken_out_of_the_configuration_is_out_of_the_effective_one(tmp_path: Path) -> None:
    given = source(tmp_path / "given")
    other = tmp_path / "given" / "systems" / "other.toml"
    other.write_text((tmp_path / "given" / "systems" / "demo-hpc.toml").read_text())
    _, both = effective(tmp_path / "one", load(given.file))
    assert list(both.systems) == ["demo-hpc", "other"]
    other.unlink()
    state = StateFolder(tmp_path / "one" / "state")
    ports = state.ports(given.systems, 0)
    sites = write_emulators(state, given, ports)
    assert list(write_configuration(state, given, ports, sites).systems) == ["demo-hpc"]


@pytest.mark.parametrize(
    ("user", "known"),
    [
        ({"name": "eve"}, []),
        ({"name": "eve", "systems": {"other": {"accounts": [{"name": "e", "projects": {}}]}}}, []),
        ({"name": "eve", "systems": {"demo-hpc": {"site_identity": "CN=Eve"}}}, []),
        (
            {
                "name": "eve",
                "systems": {
                    "demo-hpc": {
                        "site_identity": "CN=Eve",
                        "accounts": [
                            {"name": "e1", "projects": {"b": []}},
                            {"name": "e2", "projects": {"a": [], "b": []}},
                        ],
                    }
                },
            },
            [{"dn": "CN=Eve", "uids": ["e1", "e2"], "groups": ["a", "b"]}],
        ),
    ],
)
def test_a_site_knows_whom_the_configuration_gives_an_account(
    user: dict[str, Any], known: list[dict[str, Any]]
) -> None:
    assert site_users([user], "demo-hpc") == known


def test_a_site_knows_whom_the_emulated_provider_gives_an_account(tmp_path: Path) -> None:
    configuration = source(tmp_path)
    known = users_by_claims(configuration, configuration.systems[DEMO])
    assert known == [{"dn": "CN=Cleo Curie,O=Farlab Demo", "uids": ["curie1"], "groups": ["zcurie"]}]
