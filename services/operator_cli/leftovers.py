"""What a stopped session must not leave behind, looked for where it would be. Removes nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable

import aiohttp

from schemas.lifecycle import Ended
from services._runtime.connection import Broker, connect
from services._runtime.settings import Configuration
from services._runtime.systems import UnicoreSite
from services._runtime.view import placed
from services.operator_cli.sessions import read_sessions

PATIENCE_SECONDS = 20.0


async def left_behind(
    configuration: Configuration, *, ignoring: Collection[str] = (), patience_seconds: float = PATIENCE_SECONDS
) -> list[str]:
    """What is still there of ended sessions, one line each; waited for a while, because clearing up takes its time."""
    broker = await connect(configuration, "operator-cli")
    try:
        found: list[str] = []
        async with asyncio.timeout(patience_seconds + 10):
            deadline = asyncio.get_running_loop().time() + patience_seconds
            while found := [each for each in await _look(configuration, broker) if each not in ignoring]:
                if asyncio.get_running_loop().time() > deadline:
                    break
                await asyncio.sleep(0.2)
        return found
    finally:
        await broker.close()


async def _look(configuration: Configuration, broker: Broker) -> list[str]:
    states = [placed(history).state for history in await read_sessions(broker.log, configuration.subjects)]
    ended = {state.request.session: state for state in states if isinstance(state, Ended)}
    found = [f"session {session} has not ended" for session in _live(states)]
    found += [
        f"vault entry {name} of an ended session" for name in await broker.vault.keys() if name.split(".")[0] in ended
    ]
    found += [f"lease {name} of an ended session" for name in await broker.leases.keys() if _mentions(name, ended)]
    for name, system in configuration.systems.items():
        if system.emulated is not None and isinstance(system.site, UnicoreSite):
            found += await _jobs(name, system.site)
    return found


def _live(states: Iterable[object]) -> list[str]:
    return [state.request.session for state in states if not isinstance(state, Ended) and hasattr(state, "request")]


def _mentions(name: str, sessions: Iterable[str]) -> bool:
    return any(session in name for session in sessions)


async def _jobs(name: str, site: UnicoreSite) -> list[str]:
    """Jobs an emulated site still has, by its own word."""
    origin = "/".join(site.url.split("/")[:3])
    async with aiohttp.ClientSession() as http, http.get(f"{origin}/emulator/jobs", ssl=False) as answer:
        jobs = (await answer.json())["jobs"]
    return [f"job {job['id']} ({job['status']}) at {name}" for job in jobs]
