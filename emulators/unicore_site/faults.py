"""Faults a test asks an emulated site to show: slow, broken, silent or lying. Injects nothing by itself."""

from __future__ import annotations

import re
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

Kind = Literal[
    "slow",
    "hang",
    "error500",
    "drop",
    "drop-after",
    "unauthorised",
    "forbidden",
    "too-many-requests",
    "submission-disabled",
    "invalid-json",
    "lost-notification",
]


class Fault(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What goes wrong for the next `times` requests whose method and path match; `seconds` for slow ones.

    `drop` closes the connection before the request is handled, `drop-after` once it was: the answer is lost.
    """

    kind: Kind
    method: str = ".*"
    path: str = ".*"
    times: Annotated[int, Meta(ge=1)] = 1
    seconds: float = 1.0


class Faults:
    """The faults still to come."""

    def __init__(self) -> None:
        self.planned: list[Fault] = []

    def take(self, method: str, path: str) -> Fault | None:
        """The fault this request meets, counted off."""
        for fault in self.planned:
            if fault.kind != "lost-notification" and re.fullmatch(fault.method, method) and re.search(fault.path, path):
                return self._count(fault)
        return None

    def take_notification(self) -> bool:
        """Whether this notification gets lost."""
        for fault in self.planned:
            if fault.kind == "lost-notification":
                self._count(fault)
                return True
        return False

    def _count(self, fault: Fault) -> Fault:
        fault.times -= 1
        if fault.times == 0:
            self.planned.remove(fault)
        return fault
