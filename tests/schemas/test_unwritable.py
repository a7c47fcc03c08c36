"""What no reader would take is never written: a struct does not check itself, and what is in the log stays there."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec
import pytest

from schemas.publication import sample_of
from schemas.session import JobCreated, Resources, SessionEvent, StartRequested, StopRequested
from schemas.wire import decode, encode


@pytest.mark.parametrize(
    ("event", "changes"),
    [
        (StopRequested, {"reason": "x" * 1025}),
        (JobCreated, {"job": ""}),
        (JobCreated, {"session": "not-a-ulid"}),
        (JobCreated, {"hub": "Main"}),
        (JobCreated, {"system": "a.b"}),
        (JobCreated, {"at": datetime(2026, 11, 23)}),
        (StartRequested, {"user": "u" * 256}),
        (StartRequested, {"environment": {"A": 1}}),
    ],
)
def test_what_nobody_could_read_is_refused(event: type[SessionEvent], changes: dict[str, Any]) -> None:
    broken = msgspec.structs.replace(sample_of(event), **changes)
    with pytest.raises(ValueError, match="nobody could read this message"):
        encode(broken)


@pytest.mark.parametrize("name", ["workshop", "Maint_2026", "root.123", "école"])
def test_a_reservation_has_whatever_name_the_site_gave_it(name: str) -> None:
    request = msgspec.structs.replace(
        sample_of(StartRequested), resources=Resources(runtime_seconds=60, reservation=name)
    )
    assert decode(encode(request)) == request
