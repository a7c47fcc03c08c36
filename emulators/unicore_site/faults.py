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
    "crash",
    "crash-after",
    "unauthorised",
    "forbidden",
    "too-many-requests",
    "submission-disabled",
    "invalid-json",
    "missing",
    "lost-notification",
]
AFTERWARDS: tuple[Kind, ...] = ("drop-after", "crash-after")


class Fault(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What goes wrong for the next `times` requests whose method and path match; `seconds` for slow ones.

    `drop` closes the connection before the request is handled, `drop-after` once it was: the answer is lost. `crash`
    and `crash-after` are the same, and the whole site dies as if by power failure, when it runs as a program.
    """

    kind: Kind
    method: str = ".*"
    path: str = ".*"
    times: Annotated[int, Meta(ge=1)] = 1
    seconds: Annotated[float, Meta(ge=0)] = 1.0

    def __post_init__(self) -> None:
        for pattern in (self.method, self.path):
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"{pattern!r} is no regular expression: {error}") from None


class Faults:
    """The faults still to come; `message` is what the site says when it takes no jobs."""

    def __init__(self) -> None:
        self.planned: list[Fault] = []
        self.message = "Job submission is disabled: maintenance of the file system until noon."

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

    @property
    def submission_disabled(self) -> bool:
        """Whether the site would say that it takes no jobs now."""
        return any(fault.kind == "submission-disabled" for fault in self.planned)

    def _count(self, fault: Fault) -> Fault:
        fault.times -= 1
        if fault.times == 0:
            self.planned.remove(fault)
        return fault
