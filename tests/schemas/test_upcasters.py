"""Messages of versions that are no more: read, and given to services as the newest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from schemas.base import Message
from schemas.retired import Upcaster
from schemas.wire import Codec, UndecodableError, UnknownTypeError

STAMPED = {"id": "0" * 32, "at": "2026-11-23T12:00:00Z", "source": "toy"}


class PaintedOne(Message, frozen=True, kw_only=True, tag="toy-painted.v1"):
    colour: str


class PaintedTwo(Message, frozen=True, kw_only=True, tag="toy-painted.v2"):
    colours: list[str]


class Painted(Message, frozen=True, kw_only=True, tag="toy-painted.v3"):
    rgb: list[int]


RGB = {"red": [255, 0, 0], "green": [0, 255, 0]}


def kept(message: Message) -> dict[str, Any]:
    return {"id": message.id, "at": message.at, "source": message.source, "cause": message.cause}


def one_to_two(old: PaintedOne) -> PaintedTwo:
    return PaintedTwo(**kept(old), colours=[old.colour])


def two_to_three(old: PaintedTwo) -> Painted:
    return Painted(**kept(old), rgb=RGB[old.colours[0]])


CHAIN = (Upcaster(PaintedOne, one_to_two), Upcaster(PaintedTwo, two_to_three))
CODEC = Codec([Painted], CHAIN)


def body(**fields: object) -> bytes:
    return msgspec.json.encode(STAMPED | fields)


@pytest.mark.parametrize(
    "stored",
    [
        body(type="toy-painted.v1", colour="red"),
        body(type="toy-painted.v2", colours=["red"]),
        body(type="toy-painted.v3", rgb=[255, 0, 0]),
    ],
)
@pytest.mark.parametrize("chain", [CHAIN, CHAIN[::-1]])
def test_every_version_ever_sent_arrives_as_the_newest_and_keeps_its_identity(
    stored: bytes, chain: tuple[Upcaster, ...]
) -> None:
    message = Codec([Painted], chain).decode(stored)
    assert isinstance(message, Painted)
    assert message.rgb == [255, 0, 0]
    assert kept(message) == kept(CODEC.decode(body(type="toy-painted.v3", rgb=[])))


def test_a_retired_version_that_is_broken_is_undecodable_and_not_unknown() -> None:
    with pytest.raises(UndecodableError, match=r"toy-painted\.v1") as caught:
        CODEC.decode(body(type="toy-painted.v1", colour=7))
    assert not isinstance(caught.value, UnknownTypeError)


def test_a_version_whose_upcaster_was_dropped_is_unknown() -> None:
    with pytest.raises(UnknownTypeError):
        Codec([Painted], CHAIN[1:]).decode(body(type="toy-painted.v1", colour="red"))


def test_a_retired_message_without_identity_is_not_read() -> None:
    with pytest.raises(UndecodableError, match="no id or no source"):
        CODEC.decode(msgspec.json.encode({"type": "toy-painted.v1", "colour": "red"}))


def test_an_upcaster_that_fails_leaves_the_message_undecodable_and_quotes_none_of_it() -> None:
    with pytest.raises(UndecodableError, match=r"toy-painted\.v2 could not be upcast: KeyError") as caught:
        CODEC.decode(body(type="toy-painted.v2", colours=["private"]))
    assert "private" not in str(caught.value)


def two_to_one(old: PaintedTwo) -> PaintedOne:
    return PaintedOne(**kept(old), colour=old.colours[0])


def one_to_one(old: PaintedOne) -> PaintedOne:
    return old


@pytest.mark.parametrize(
    "chain",
    [
        (Upcaster(PaintedOne, one_to_one),),
        (Upcaster(PaintedOne, one_to_two), Upcaster(PaintedTwo, two_to_one)),
    ],
)
def test_upcasters_that_lead_nowhere_end(chain: tuple[Upcaster, ...]) -> None:
    with pytest.raises(UndecodableError, match="no chain of upcasters"):
        Codec([Painted], chain).decode(body(type="toy-painted.v1", colour="red"))


@pytest.mark.parametrize("again", [Painted, PaintedOne])
def test_a_version_is_current_or_retired_and_once(again: type[Message]) -> None:
    to_next: Callable[[Any], Message] = one_to_two
    with pytest.raises(ValueError, match="listed twice"):
        Codec([Painted], [*CHAIN, Upcaster(again, to_next)])
