"""Every target with inputs made by Hypothesis: seeds, seeds that were damaged, and JSON of any shape."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.targets import TARGETS, seeds, site_reply

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(min_value=-(2**63), max_value=2**64 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=40),
    st.integers(min_value=10**18, max_value=10**40).map(str),
    st.sampled_from(["9" * 5000, "-1", "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", "\x00", "1e400"]),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=8,
)


@st.composite
def damaged(draw: Any, name: str) -> bytes:
    """A seed with a few places changed, cut or doubled."""
    data = bytearray(draw(st.sampled_from(list(seeds(name)))))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(data)))
        match draw(st.integers(0, 3)):
            case 0:
                data[at : at + 1] = draw(st.binary(max_size=3))
            case 1:
                del data[at : at + draw(st.integers(0, 20))]
            case 2:
                data[at:at] = data[at : at + draw(st.integers(0, 40))]
            case _:
                data[at:at] = draw(st.sampled_from([b'"', b"\\ud800", b"9" * 30, b"null", b"\n", b"\xff", b"[" * 200]))
    return bytes(data)


@pytest.mark.parametrize("name", TARGETS)
def test_a_seed_breaks_nothing(name: str) -> None:
    for data in seeds(name):
        TARGETS[name](data)


@pytest.mark.parametrize("name", TARGETS)
def test_damaged_and_random_input_breaks_nothing(name: str) -> None:
    @settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(damaged(name) | st.binary(max_size=200) | VALUES.map(msgspec.json.encode))
    def check(data: bytes) -> None:
        TARGETS[name](data)

    check()


@settings(max_examples=300, deadline=None, database=None)
@given(
    status=st.sampled_from(["QUEUED", "SUCCESSFUL", "FAILED", "READY", "OTHER"]) | VALUES,
    fields=st.fixed_dictionaries(
        {},
        optional=dict.fromkeys(("statusMessage", "exitCode", "log", "_links", "JobState", "Reason", "details"), VALUES),
    ),
    details=st.fixed_dictionaries(
        {}, optional=dict.fromkeys(("JobState", "Reason", "StartTime", "QueuePosition", "rawDetailsData"), VALUES)
    ),
)
def test_a_site_that_lies_in_any_field_is_still_put_into_words(status: Any, fields: Any, details: Any) -> None:
    site_reply(msgspec.json.encode({"status": status, **fields, **({"details": details} if details else {})}))
