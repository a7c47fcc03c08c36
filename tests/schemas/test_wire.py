"""Bytes in, messages out, and nothing else ever: arbitrary bytes, broken JSON, messages of tomorrow."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.base import UNSTAMPED, EventId, message_type
from schemas.publication import sample_of
from schemas.subjects import SLUG_PATTERN, SubjectError, Subjects, slug
from schemas.wire import (
    CURRENT,
    UndecodableError,
    UnknownTypeError,
    cloudevents_headers,
    decode,
    decode_session_event,
    encode,
    trace_id,
)
from tests.support.samples import Story, stamp

BODY = encode(sample_of(CURRENT[0]))
AWKWARD = ["ada", "Ada", "ada--1", "äda", "a.b", "a b", "*", ">", "../../etc", "$(id)", "", "\x00", "\ud800", "x" * 300]


@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_refused_in_one_way(body: bytes) -> None:
    with pytest.raises(UndecodableError):
        decode(body)


@given(st.integers(0, len(BODY) - 1), st.integers(0, 255))
def test_a_damaged_body_decodes_or_is_refused_in_one_way(position: int, value: int) -> None:
    damaged = bytearray(BODY)
    damaged[position] = value
    try:
        assert decode(bytes(damaged)).id
    except UndecodableError as error:
        assert str(error)


def test_deep_nesting_is_refused_and_not_followed() -> None:
    with pytest.raises(UndecodableError):
        decode(b'{"type":' * 100_000 + b"1" + b"}" * 100_000)


def test_a_message_of_tomorrow_is_told_apart_from_a_broken_one() -> None:
    with pytest.raises(UnknownTypeError, match=r"start-requested\.v9"):
        decode(BODY.replace(b"start-requested.v1", b"start-requested.v9"))


def test_fields_of_tomorrow_are_kept_out_of_the_way() -> None:
    body = json.loads(BODY) | {"new_in_the_next_build": [1, 2, 3]}
    assert decode(json.dumps(body).encode()) == decode(BODY)


@pytest.mark.parametrize("field", ["id", "source"])
def test_a_message_without_identity_is_neither_sent_nor_read(field: str) -> None:
    sample = msgspec.structs.replace(decode(BODY), **{field: ""})
    with pytest.raises(ValueError, match="was not stamped"):
        encode(sample)
    body = json.loads(BODY)
    del body[field]
    with pytest.raises(UndecodableError):
        decode(json.dumps(body).encode())


def test_only_session_events_pass_for_session_events() -> None:
    quota = next(message for message in CURRENT if message_type(message) == "quota-updated.v1")
    with pytest.raises(UndecodableError, match="not an event of a session"):
        decode_session_event(encode(sample_of(quota)))


def test_headers_follow_cloudevents_and_trace_context() -> None:
    event = stamp()(Story().requested(), after=0, cause=EventId("c" * 32))
    headers = cloudevents_headers(event)
    assert headers["ce-type"] == "start-requested.v1"
    assert headers["ce-id"] == headers["Nats-Msg-Id"] == event.id
    assert headers["ce-causationid"] == "c" * 32
    version, trace, span, flags = headers["traceparent"].split("-")
    assert (version, len(trace), len(span), flags) == ("00", 32, 16, "01")
    assert trace == trace_id(event.session)


def test_ids_are_unguessable_and_belong_to_content_and_place() -> None:
    story, mine, others = Story(), stamp("a"), stamp("b")
    first = mine(story.created("one"), after=3, cause=None)
    assert first.id != UNSTAMPED
    assert mine(story.created("one"), after=3, cause=None).id == first.id
    assert mine(story.created("two"), after=3, cause=None).id != first.id
    assert mine(story.created("one"), after=4, cause=None).id != first.id
    assert others(story.created("one"), after=3, cause=None).id != first.id


@given(st.text(max_size=300) | st.sampled_from(AWKWARD))
def test_every_name_has_a_slug_that_is_a_token(name: str) -> None:
    import re

    assert re.fullmatch(SLUG_PATTERN, slug(name))
    assert len(slug(name)) <= 63


@given(st.lists(st.text(max_size=50) | st.sampled_from(AWKWARD), unique=True, max_size=30))
def test_different_names_have_different_slugs(names: list[str]) -> None:
    assert len({slug(name) for name in names}) == len(names)


def test_a_slug_is_not_the_slug_of_another_name() -> None:
    assert slug(slug("Ada Lovelace")) != slug("Ada Lovelace")


def test_a_subject_is_parsed_as_it_was_built() -> None:
    subjects, event = Subjects("inst"), Story().requested()
    tokens = subjects.parse_session(subjects.session_event(event))
    assert (tokens.hub, tokens.system, tokens.session, tokens.event) == (
        event.hub,
        event.system,
        event.session,
        "start-requested",
    )


@pytest.mark.parametrize(
    "subject", ["", "farlab.v1.session.a.b.c", "other.v1.session.a.b.c.d", "farlab.v2.session.a.b.c.d"]
)
def test_other_subjects_are_not_parsed(subject: str) -> None:
    with pytest.raises(SubjectError):
        Subjects().parse_session(subject)


@pytest.mark.parametrize("cause", ["x\r\nNats-Rollup: all", "a\x7fb", "\u2028", "é\n"])
def test_no_id_of_anybodys_message_can_write_a_header(cause: str) -> None:
    event = msgspec.structs.replace(stamp()(Story().requested(), after=0, cause=None), cause=EventId(cause))
    for name, value in cloudevents_headers(event).items():
        assert value.isascii(), name
        assert value.isprintable(), name
