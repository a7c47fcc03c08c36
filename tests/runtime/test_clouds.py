"""A cloud's file: what is wrong with it is one line with file, key, value and remedy."""

from __future__ import annotations

from pathlib import Path

import pytest

from services._runtime.api_server import check_kubeconfig
from services._runtime.clouds import load_clouds
from services._runtime.configuration import ConfigurationError
from services._runtime.settings import load
from services._runtime.systems import load_systems

ROOT = Path(__file__).parents[2]
DEMO = (ROOT / "systems" / "demo-cloud.toml").read_text()


def test_both_kinds_stand_in_one_folder_and_each_is_read_as_its_own() -> None:
    configuration = load(ROOT / "farlab.toml")
    assert list(configuration.systems) == ["demo-hpc"]
    assert list(configuration.clouds) == ["demo-cloud"]
    assert list(configuration.catalogue) == ["demo-hpc", "demo-cloud"]
    assert configuration.clouds[next(iter(configuration.clouds))].site.kubeconfig == str(
        ROOT / "systems" / "kubeconfig"
    )


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('namespace = "farlab"', 'namespace = "farlab-{group}"', "site.namespace = 'farlab-{group}': not a name"),
        ('namespace = "farlab"', 'namespace = "Farlab"', "site.namespace = 'Farlab': not a name of a namespace"),
        ('networks = ["127.31.0.0/16"]', 'networks = ["127.31.0.1/16"]', "reach.networks = '127.31.0.1/16'"),
        ("idle_seconds = 3600", "warning_seconds = 28800", "flavours.small.warning_seconds = 28800: must be less than"),
        (
            "idle_seconds = 3600",
            "idel_seconds = 3600",
            'flavours.small.idel_seconds is not a setting; did you mean "idle_seconds"?',
        ),
    ],
)
def test_what_is_wrong_is_one_line(tmp_path: Path, old: str, new: str, words: str) -> None:
    assert old in DEMO
    (tmp_path / "demo-cloud.toml").write_text(DEMO.replace(old, new))
    with pytest.raises(ConfigurationError) as wrong:
        load_clouds(tmp_path)
    assert words in str(wrong.value)
    assert "demo-cloud.toml" in str(wrong.value)


def test_a_cloud_alone_is_an_installation(tmp_path: Path) -> None:
    (tmp_path / "demo-cloud.toml").write_text(DEMO.replace('namespace = "farlab"', 'namespace = "lab-{user}"'))
    assert load_systems(tmp_path) == {}
    [cloud] = load_clouds(tmp_path).values()
    assert cloud.site.many_namespaces


def test_a_kubeconfig_that_everybody_may_read_is_refused_with_the_remedy(tmp_path: Path) -> None:
    file = tmp_path / "kubeconfig"
    with pytest.raises(ConfigurationError, match="cannot be read: No such file"):
        check_kubeconfig(str(file))
    file.write_text("{}")
    file.chmod(0o644)
    with pytest.raises(ConfigurationError, match=rf"everybody may read it \(mode 0644\); run: chmod 600 {file}"):
        check_kubeconfig(str(file))
    for mode in (0o640, 0o600):
        file.chmod(mode)
        check_kubeconfig(str(file))
    check_kubeconfig("")
