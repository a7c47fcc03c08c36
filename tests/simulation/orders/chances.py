"""What a seed decides beforehand. Decides nothing while it runs."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Literal

SERVICES = ("accounts", "launcher", "tunneler")


@dataclass
class Chances:
    """What a seed decides beforehand."""

    moments: int
    replicas: dict[str, int]
    sessions: int
    quota_limit: int
    when_full: Literal["reject", "wait"]
    loss: float
    kills: int
    site_deaths: int
    stops: float
    deadline_seconds: float
    denials: int
    silences: int
    hostile: bool
    one_server: bool


def chances(random: Random) -> Chances:
    """A seed's dangers."""
    return Chances(
        moments=random.choice((40, 80, 120, 200)),
        replicas={name: random.choice((1, 2)) for name in SERVICES},
        sessions=random.choice((1, 1, 2)),
        quota_limit=random.choice((1, 2)),
        when_full=random.choice(("reject", "wait")),
        loss=random.choice((0.0, 0.0, 0.02, 0.08)),
        kills=random.choice((0, 0, 1, 2, 3)),
        site_deaths=random.choice((0, 0, 0, 1)),
        stops=random.choice((0.0, 0.02, 0.1)),
        deadline_seconds=random.choice((2.0, 30.0, 3600.0, 3600.0)),
        denials=random.choice((0, 0, 1)),
        silences=random.choice((0, 0, 0, 4)),
        hostile=random.random() < 0.2,
        one_server=random.random() < 0.5,
    )
