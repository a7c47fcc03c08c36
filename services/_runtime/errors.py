"""Errors named by the reaction they ask for. Anything else is a defect: bounded tries, then a dead letter."""

from __future__ import annotations


class TransientError(Exception):
    """It may work later: the message comes again after `delay_seconds`, or after a backoff when that is None."""

    def __init__(self, reason: str, delay_seconds: float | None = None) -> None:
        self.reason = reason
        self.delay_seconds = delay_seconds
        super().__init__(reason)


class PermanentError(Exception):
    """It will never work: it becomes an event, with a code for programs and a reason and remedy for people."""

    def __init__(self, code: str, reason: str, remedy: str) -> None:
        self.code = code
        self.reason = reason
        self.remedy = remedy
        super().__init__(f"{code}: {reason}")
