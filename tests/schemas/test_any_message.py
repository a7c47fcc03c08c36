"""Every message the types allow goes out and comes back; every body that is not one is refused in one way."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.base import UNSTAMPED, Message, event_name, message_type
from schemas.publication import sample_of, schema_of
from schemas.session import AnySessionEvent, SessionEvent
from schemas.subjects import Subjects, slug
from schemas.wire import CURRENT, UndecodableError, cloudevents_headers, decode, encode
from tests.schemas.arbitrary import messages, messages_of

SCHEMAS = {message: jsonschema.Draft202012Validator(schema_of(message)) for message in CURRENT}
SESSION_EVENTS = [message for message in CURRENT if issubclass(message, SessionEvent)]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@given(messages())
def test_any_message_comes_back_as_it_went_and_is_what_its_schema_says(message: Message) -> None:
    body = encode(message)
    assert decode(body) == message
    assert encode(decode(body)) == body
    SCHEMAS[type(message)].validate(json.loads(body))


@given(st.sampled_from(CURRENT), st.data())
def test_a_body_with_any_field_replaced_decodes_or_is_refused_in_one_way(
    message: type[Message], data: st.DataObject
) -> None:
    body: dict[str, Any] = json.loads(encode(sample_of(message)))
    body[data.draw(st.sampled_from(sorted(body)))] = data.draw(JSON)
    try:
        decoded = decode(json.dumps(body).encode())
    except UndecodableError as error:
        assert str(error)
    else:
        assert decode(encode(decoded)) == decoded


@given(st.sampled_from(CURRENT), st.data())
def test_a_body_without_a_required_field_is_never_read(message: type[Message], data: st.DataObject) -> None:
    body: dict[str, Any] = json.loads(encode(sample_of(message)))
    # Without its time a message still says what was; the readers take the epoch.
    required = sorted(set(schema_of(message)["required"]) - {"at"})
    del body[data.draw(st.sampled_from(required))]
    with pytest.raises(UndecodableError):
        decode(json.dumps(body).encode())


@pytest.mark.parametrize("depth", [500, 5_000, 200_000])
@pytest.mark.parametrize(("opens", "closes"), [("[", "]"), ('{"a":', "}")])
def test_depth_in_a_field_nobody_reads_is_refused_or_skipped(depth: int, opens: str, closes: str) -> None:
    body = encode(sample_of(CURRENT[0]))
    deep = body[:-1] + b',"x":' + (opens * depth + "1" + closes * depth).encode() + b"}"
    try:
        assert decode(deep) == decode(body)
    except UndecodableError:
        assert depth > 500


@given(messages())
@settings(max_examples=50)
def test_nothing_unstamped_is_sent(message: Message) -> None:
    for unstamped in ({"id": UNSTAMPED}, {"source": ""}):
        with pytest.raises(ValueError, match="not stamped"):
            encode(msgspec.structs.replace(message, **unstamped))


@given(messages())
def test_headers_are_text_and_name_the_message(message: Message) -> None:
    headers = cloudevents_headers(message)
    assert all(isinstance(value, str) for value in headers.values())
    assert headers["ce-type"] == message_type(message)
    assert ("ce-causationid" in headers) == (message.cause is not None)
    assert ("traceparent" in headers) == isinstance(message, SessionEvent)


@given(
    st.sampled_from(SESSION_EVENTS).flatmap(messages_of),
    st.text(min_size=1, max_size=20).map(slug),
    st.sampled_from(SESSION_EVENTS),
)
def test_a_subject_says_of_which_session_it_is_and_filters_find_it(
    event: AnySessionEvent, prefix: str, other: type[SessionEvent]
) -> None:
    subjects = Subjects(prefix)
    subject = subjects.session_event(event)
    parsed = subjects.parse_session(subject)
    assert (parsed.hub, parsed.system, parsed.session) == (event.hub, event.system, event.session)
    assert parsed.event == event_name(event)
    filters = {
        subjects.session(event.session): True,
        subjects.sessions(): True,
        subjects.sessions(hub=event.hub): True,
        subjects.sessions(system=event.system, event=type(event)): True,
        subjects.sessions(event=other): other is type(event),
        subjects.family("session"): True,
        subjects.family("quota"): False,
        Subjects(f"{prefix[:60]}-2").family("session"): False,
    }
    assert {each: matches(each, subject) for each in filters} == filters


def matches(pattern: str, subject: str) -> bool:
    """NATS's rule: `*` is one token, a last `>` is one or more."""
    wanted, tokens = pattern.split("."), subject.split(".")
    if wanted[-1] == ">":
        wanted, tokens = wanted[:-1], tokens[: len(wanted) - 1] if len(tokens) >= len(wanted) else []
    return len(wanted) == len(tokens) and all(each in ("*", token) for each, token in zip(wanted, tokens, strict=True))
