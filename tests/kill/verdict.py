"""What a chaos left behind: sessions lost, orphaned, doubled or stuck, and whatever leaked. Removes nothing."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections import Counter
from dataclasses import dataclass, field

import aiohttp

from schemas.lifecycle import Ended
from schemas.session import JobSubmitted, SessionEnded, StartRequested
from services._runtime.connection import connect
from services._runtime.errors import TransientError
from services._runtime.settings import load
from services._runtime.view import placed
from services.operator_cli.histories import LogHistories
from services.operator_cli.leftovers import reserved
from tests.kill.installation import Installation

NODE_LOST = "The compute node was lost while the site was down."
"""What the emulated site says of jobs that ran when it was killed: its death takes its nodes with it."""


@dataclass
class Verdict:
    """The findings, one line each, by what is wrong."""

    sessions: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)
    orphaned: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    stuck: list[str] = field(default_factory=list)
    leaked: list[str] = field(default_factory=list)
    settled_seconds: float = 0.0

    @property
    def unsettled(self) -> list[str]:
        """What time alone may still mend."""
        return [*self.orphaned, *self.stuck, *self.leaked]

    @property
    def wrong(self) -> list[str]:
        """Everything."""
        return [*self.lost, *self.doubled, *self.unsettled]

    def summary(self) -> str:
        """The counts, as the summary line has them."""
        names = ("lost", "orphaned", "doubled", "stuck", "leaked")
        return " ".join(f"{name}={len(getattr(self, name))}" for name in names)


async def jobs_at_the_site(farlab: Installation) -> list[dict[str, object]]:
    """Every job the emulated site has. Raises TransientError when it does not answer."""
    configuration = load(farlab.state / "farlab.toml")
    [system] = configuration.systems.values()
    url = f"{'/'.join(system.site.url.split('/')[:3])}/emulator/jobs"
    try:
        context = ssl.create_default_context(cafile=system.site.ca_file)
        timeout = aiohttp.ClientTimeout(total=10)
        async with aiohttp.ClientSession(timeout=timeout) as http, http.get(url, ssl=context) as answer:
            jobs: list[dict[str, object]] = (await answer.json())["jobs"]
            return jobs
    except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
        raise TransientError(f"the site does not answer: {error!r}") from None


async def look(farlab: Installation, wanted_outcomes: frozenset[str]) -> Verdict:
    """One look at everything. Raises TransientError when a part does not answer."""
    configuration = load(farlab.state / "farlab.toml")
    verdict = Verdict()
    broker = await connect(configuration, "operator-cli")
    try:
        for history in await LogHistories(broker.log, configuration.subjects).all():
            first = history[0].message
            if not isinstance(first, StartRequested):
                verdict.lost.append(f"a session begins with {type(first).__name__}")
                continue
            verdict.sessions += 1
            who = f"{first.user}/{first.server_name} {first.session[-6:]}"
            ends = [each.message for each in history if isinstance(each.message, SessionEnded)]
            submitted = [each for each in history if isinstance(each.message, JobSubmitted)]
            if len(ends) > 1 or len(submitted) > 1:
                verdict.doubled.append(f"{who}: {len(submitted)} submissions, {len(ends)} ends")
            state = placed(history).state
            if not isinstance(state, Ended):
                verdict.stuck.append(f"{who} rests in {type(state).__name__}")
                continue
            verdict.outcomes[state.end.outcome] += 1
            if state.end.outcome not in wanted_outcomes and NODE_LOST not in state.end.reason:
                verdict.lost.append(f"{who}: {state.end.outcome}: {state.end.reason[:150]}")
        verdict.leaked += [f"secret {key}" for key in await broker.vault.keys()]
        quotas = await broker.log.history("QUOTAS", configuration.subjects.family("quota"))
        verdict.leaked += [f"share of {session[-6:]} in {what}" for session, what in reserved(quotas)]
    finally:
        await broker.close()
    verdict.orphaned += [f"job {job['id']} ({job['status']})" for job in await jobs_at_the_site(farlab)]
    return verdict


async def settled(farlab: Installation, wanted_outcomes: frozenset[str], within_seconds: float) -> Verdict:
    """The verdict once nothing is left, or after the bound."""
    begun = time.monotonic()
    verdict = Verdict(stuck=["nothing answers"])
    while time.monotonic() - begun < within_seconds:
        try:
            verdict = await look(farlab, wanted_outcomes)
        except TransientError:
            await asyncio.sleep(1)
            continue
        verdict.settled_seconds = time.monotonic() - begun
        if not verdict.unsettled:
            return verdict
        await asyncio.sleep(1)
    return verdict


async def watch_for_doubles(farlab: Installation, doubled: set[str]) -> None:
    """Looks at the site all the time: no session may have two jobs there that were started. Ends by cancel."""
    while True:
        try:
            jobs = await jobs_at_the_site(farlab)
        except (TransientError, OSError):
            jobs = []
        live = Counter(
            tag
            for job in jobs
            if job["status"] in ("QUEUED", "RUNNING")
            for tag in job["tags"]  # type: ignore[attr-defined]
            if tag.startswith("farlab-session-")
        )
        doubled |= {tag for tag, count in live.items() if count > 1}
        await asyncio.sleep(1.0)
