"""Ids: the same for the same append, different for every other, and nobody's to guess."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec
import pytest

from schemas.base import EventId
from services._runtime.identity import Stamp
from tests.support.samples import NOW, Story, stamp

KEY = b"0123456789abcdef"


def test_the_same_append_repeated_has_the_same_id_whenever_it_is_repeated() -> None:
    story, times = Story(), iter([NOW, datetime(2027, 1, 1, tzinfo=UTC)])
    seal = Stamp("svc", KEY, lambda: next(times))
    one, two = (seal(story.created(), after=3, cause=EventId("c")) for _ in range(2))
    assert one.id == two.id
    assert one.at != two.at


def test_position_content_cause_source_and_key_each_make_another_id() -> None:
    story = Story()
    same = {"after": 3, "cause": EventId("c")}
    ids = {
        stamp()(story.created(), **same).id,  # type: ignore[arg-type]
        stamp()(story.created(), after=4, cause=EventId("c")).id,
        stamp()(story.created(), after=3, cause=EventId("d")).id,
        stamp()(story.created("job-2"), **same).id,  # type: ignore[arg-type]
        stamp("other")(story.created(), **same).id,  # type: ignore[arg-type]
        Stamp("test", KEY, lambda: NOW)(story.created(), **same).id,  # type: ignore[arg-type]
        stamp()(Story().created(), **same).id,  # type: ignore[arg-type]
    }
    assert len(ids) == 7


def test_an_event_that_knows_its_cause_keeps_it() -> None:
    event = msgspec.structs.replace(Story().created(), cause=EventId("own"))
    assert stamp()(event, after=1, cause=EventId("other")).cause == "own"
    assert stamp()(Story().created(), after=1, cause=EventId("other")).cause == "other"


def test_nobody_speaks_under_another_name() -> None:
    event = msgspec.structs.replace(Story().created(), source="mallory")
    assert stamp("svc")(event, after=1, cause=None).source == "svc"


def test_a_key_that_could_be_guessed_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 16 bytes"):
        Stamp("svc", b"short", lambda: NOW)
