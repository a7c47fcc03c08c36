"""Superseded versions of messages, unchanged, each with the upcaster to its successor. Knows no newer form.

A breaking change moves the old struct here and adds `Upcaster(OldStruct, to_next)` to `UPCASTERS`;
`wire.decode` applies them in turn, so that services only ever see the newest version.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from schemas.base import Message


class Upcaster(msgspec.Struct, frozen=True):
    """How a message of a retired version becomes one of the next version. The function is pure and total."""

    retired: type[Message]
    to_next: Callable[[Any], Message]


UPCASTERS: tuple[Upcaster, ...] = ()
