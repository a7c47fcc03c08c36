"""What leaves an installation in an export: nothing personal, whichever field it stood in, and stories stay whole."""

from __future__ import annotations

from typing import get_args

import msgspec
import pytest
from hypothesis import given

from schemas.base import Message, message_type
from schemas.privacy import personal_values, redacted, unmarked_texts
from schemas.session import AnySessionEvent, LogTail, SessionEnded
from schemas.wire import decode, encode
from tests.schemas.arbitrary import messages
from tests.support.samples import Story, stamp

HARMLESS = {
    "hub",
    "system",
    "session",
    "vo",
    "software",
    "code",
    "refusal",
    "replica",
    "cause",
    "source",
    "id",
    "place.partition",
    "place.flavour",
    "place.image",
    "outcome",
    "sign_in",
    "step_up.levels[]",
}
"""Text fields of session events without a mark: operators' names, ids and codes. A new field is marked or here."""


@pytest.mark.parametrize("kind", get_args(AnySessionEvent), ids=message_type)
def test_every_text_field_is_marked_or_known_to_be_harmless(kind: type[Message]) -> None:
    assert set(unmarked_texts(kind)) <= HARMLESS


def pseudonyms_of(*messages: Message) -> dict[str, str]:
    values = sorted(set().union(*(personal_values(message) for message in messages)))
    return {value: f"x{number:04}" for number, value in enumerate(values)}


def test_a_story_keeps_its_shape_and_loses_its_people() -> None:
    story = Story(user="ada.lovelace", server_name="engine")
    end = msgspec.structs.replace(
        story.ended(), reason="Stopped by ada.lovelace on project ztrain.", log_tail=LogTail(stderr="ada's secret")
    )
    said = [story.requested(), story.admitted(), story.created("https://uc.site/jobs/1"), story.listening("node7"), end]
    names = pseudonyms_of(*said)
    told = [redacted(each, names) for each in said]
    text = b"".join(encode(stamp()(each, after=0, cause=None)) for each in told).decode()
    for personal in ("lovelace", "engine", "ztrain", "uc.site", "node7", "CN=", "secret"):  # ids may spell ada
        assert personal not in text
    first, last = told[0], told[-1]
    assert isinstance(last, SessionEnded)
    assert last.reason == f"Stopped by {names['ada.lovelace']} on project {names['ztrain']}."
    assert f"/user/{names['ada.lovelace']}/" in text
    assert (first.session, last.outcome) == (story.session, "stopped")


@given(messages())
def test_whatever_a_message_says_its_export_can_be_read_and_has_no_personal_value(message: Message) -> None:
    names = pseudonyms_of(message)
    exported = redacted(message, names)
    assert type(decode(encode(exported))) is type(message)
    assert personal_values(exported) <= set(names.values())
