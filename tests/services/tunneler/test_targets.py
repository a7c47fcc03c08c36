from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.tunneler.targets import RefusedTargetError, check_target

NETWORKS = ["10.11.0.0/16", "fd00::/8"]
HOSTS = [r"jwc\d\d[a-z]\d{3}\.juwels"]


@pytest.mark.parametrize(
    ("host", "port", "networks"),
    [
        ("10.11.3.4", 9000, NETWORKS),
        ("fd00::7", 9000, NETWORKS),
        ("jwc00n001.juwels", 9000, NETWORKS),
        ("127.30.0.11", 9000, ["127.30.0.0/24"]),
    ],
)
def test_compute_nodes_may_be_announced(host: str, port: int, networks: list[str]) -> None:
    check_target(host, port, networks=networks, ports=(1024, 65535), hosts=HOSTS)


@pytest.mark.parametrize(
    ("host", "port", "networks"),
    [
        ("10.12.0.1", 9000, NETWORKS),
        ("10.11.3.4", 22, NETWORKS),
        ("127.0.0.1", 9000, ["0.0.0.0/0"]),
        ("169.254.169.254", 9000, ["0.0.0.0/0"]),
        ("0.0.0.0", 9000, ["0.0.0.0/0"]),
        ("224.0.0.1", 9000, ["0.0.0.0/0"]),
        ("::1", 9000, ["::/0"]),
        ("login.juwels", 9000, NETWORKS),
        ("jwc00n001.juwels.evil.example", 9000, NETWORKS),
        ("-oProxyCommand=id", 9000, NETWORKS),
        ("jwc00n001.juwels\n", 9000, NETWORKS),
        ("", 9000, NETWORKS),
    ],
)
def test_everything_else_is_refused(host: str, port: int, networks: list[str]) -> None:
    with pytest.raises(RefusedTargetError):
        check_target(host, port, networks=networks, ports=(1024, 65535), hosts=HOSTS)


@given(st.text(max_size=300), st.integers())
def test_no_text_gets_past_by_chance(host: str, port: int) -> None:
    with pytest.raises(RefusedTargetError):
        check_target(host, port, networks=["10.11.0.0/31"], ports=(1024, 1025), hosts=[])
