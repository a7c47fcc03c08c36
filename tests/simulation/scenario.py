"""What a seed means: who runs, what users do, what goes wrong and when. Runs nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import Literal

Kind = Literal[
    "crash",
    "restart",
    "freeze",
    "cut-from-broker",
    "cut-from-site",
    "broker-down",
    "site-down",
    "site-slow",
    "site-denies",
    "login-node-down",
    "job-dies",
    "server-quits",
]


@dataclass(frozen=True)
class Fault:
    """Something that goes wrong: when, what, to whom, for how long; a crash strikes at the n-th request after that."""

    at: float
    kind: Kind
    target: str = ""
    seconds: float = 0.0
    calls: int = 0
    moment: str = ""

    def __str__(self) -> str:
        details = f" for {self.seconds:.1f} s" if self.seconds else ""
        if self.kind == "crash":
            details = f" {self.moment} request {self.calls}"
        return f"{self.at:.1f} s: {self.kind} {self.target}{details}"


@dataclass(frozen=True)
class Press:
    """A user presses a button."""

    at: float
    button: Literal["start", "stop"]
    user: str
    server: str


@dataclass
class Scenario:
    """Everything a seed decides beforehand."""

    seed: int
    replicas: dict[str, int]
    users: list[str]
    presses: list[Press]
    faults: list[Fault]
    skews: dict[str, float]
    quota_limit: int
    quota_per_user: int
    when_full: Literal["reject", "wait"]
    queue_seconds: float
    boot_seconds: float
    deadline_seconds: float
    slowness: float
    loss: float
    doubling: float
    chaos_seconds: float
    hostile: bool = False
    """Whether a job that can announces another session's server as its own."""
    chosen: list[int] = field(default_factory=list)


SERVICES = ("accounts", "launcher", "tunneler")


def scenario(seed: int, only_faults: list[int] | None = None) -> Scenario:
    """The scenario of a seed, with all of its faults or only some, by their place in the list."""
    random = Random(seed)
    replicas = {service: random.choice((1, 1, 2)) for service in SERVICES}
    users = ["ada", "ben"][: random.choice((1, 2, 2))]
    servers = [(user, name) for user in users for name in ("", "two")[: random.choice((1, 1, 2))]]
    chaos = random.choice((15.0, 30.0, 60.0))
    presses: list[Press] = []
    for user, name in servers:
        at = random.random() * chaos * 0.3
        for button in ("start", "stop", "start", "stop")[: random.choice((1, 1, 2, 2, 3, 4))]:
            presses.append(Press(at, button, user, name))  # type: ignore[arg-type]
            at += random.choice((0.02, 0.5, 3.0, 10.0, 20.0)) * random.random()
    names = ["hub", *[f"{service}-{n + 1}" for service in SERVICES for n in range(replicas[service])]]
    faults = sorted(
        (_fault(random, names, chaos) for _ in range(random.choice((0, 1, 2, 3, 4, 6, 10)))),
        key=lambda fault: fault.at,
    )
    chosen = list(range(len(faults))) if only_faults is None else [n for n in only_faults if n < len(faults)]
    return Scenario(
        seed=seed,
        replicas=replicas,
        users=users,
        presses=sorted(presses, key=lambda press: press.at),
        faults=faults,
        skews={name: random.choice((0.0, 0.0, 0.0, 2.0, -2.0, 45.0, -45.0)) for name in names},
        quota_limit=random.choice((1, 2, 4)),
        quota_per_user=random.choice((1, 2, 2)),
        when_full=random.choice(("reject", "wait")),
        queue_seconds=random.choice((0.0, 1.0, 5.0, 20.0)),
        boot_seconds=random.choice((0.1, 1.0, 3.0)),
        deadline_seconds=random.choice((20.0, 60.0, 300.0, 300.0)),
        slowness=random.choice((0.0, 0.0, 0.02, 0.1)),
        loss=random.choice((0.0, 0.0, 0.01, 0.05)),
        doubling=random.choice((0.0, 0.05, 0.3)),
        chaos_seconds=chaos,
        hostile=random.random() < 0.15,
        chosen=chosen,
    )


def _fault(random: Random, names: list[str], chaos: float) -> Fault:
    at = random.random() * chaos
    kind: Kind = random.choices(
        (
            "crash",
            "restart",
            "freeze",
            "cut-from-broker",
            "cut-from-site",
            "broker-down",
            "site-down",
            "site-slow",
            "site-denies",
            "login-node-down",
            "job-dies",
            "server-quits",
        ),
        (10, 2, 4, 3, 2, 2, 2, 2, 1, 2, 1, 1),
    )[0]
    seconds = random.choice((0.5, 3.0, 8.0, 15.0, 25.0)) * (0.5 + random.random())
    target = random.choice(names)
    if kind == "cut-from-site":
        target = random.choice([name for name in names if name.startswith("launcher")])
    if kind == "crash":
        return Fault(at, kind, target, 0.0, random.randrange(1, 30), random.choice(("before", "sent", "answered")))
    if kind in ("restart",):
        return Fault(at, kind, target)
    if kind in ("freeze", "cut-from-broker", "cut-from-site"):
        return Fault(at, kind, target, seconds)
    if kind in ("site-denies", "job-dies", "server-quits"):
        return Fault(at, kind)
    return Fault(at, kind, "", seconds)
