"""`farlab up --check`: everything started from nothing, used as a user would, stopped, and nothing left."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from schemas.base import SystemName
from services._runtime.settings import Configuration, load
from services._runtime.systems import SshReach, System
from services.operator_cli.leftovers import left_behind
from services.operator_cli.output import console, errors, print_json, print_table
from services.operator_cli.probe import Hub, Phase, Report, places, probe
from services.operator_cli.state_folder import StateFolder
from services.operator_cli.up import Installation, left_over


class Result(msgspec.Struct, kw_only=True):
    """What a check found; `ok` says all of it in a word."""

    ok: bool = False
    seconds: float = 0.0
    start_up: list[Phase] = []
    systems: list[Report] = []
    problems: list[str] = []


async def run_check(config: Path, *, as_json: bool) -> int:
    """The exit code of `farlab up --check`: 0 when every system worked and nothing was left."""
    begun = time.perf_counter()
    result = Result()
    source = load(config)

    def say(name: str, what: str) -> None:
        _say(f"{name}: {what}")
        if what.startswith("ready in"):
            result.start_up.append(Phase(name=name, seconds=float(what.split()[2])))

    with tempfile.TemporaryDirectory(prefix="farlab-check-") as temporary:
        state = StateFolder(Path(temporary))
        installation = Installation(source, state, public_port=0, say=say)
        try:
            await installation.start()
            await probe_all(
                result, installation.configuration, installation.url, state.secret("operator.token"), "", "", _say
            )
            result.problems += await left_behind(installation.configuration)
        finally:
            await installation.stop()
        result.problems += [f"process {pid} is left" for pid in left_over(state.path)]
        if result.problems or any(report.problems for report in result.systems):
            _say_logs(installation)
    result.seconds = round(time.perf_counter() - begun, 2)
    return report(result, as_json=as_json)


async def probe_all(
    result: Result,
    configuration: Configuration,
    url: str,
    token: str,
    user: str,
    system: str,
    say: Callable[[str], None],
) -> None:
    """Probes every system somebody configured may use, one user a system; `user` and `system` narrow it."""
    users: list[dict[str, Any]] = configuration.sections.get("accounts", {}).get("users", [])
    probed: set[str] = set()
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as http:
        hub = Hub(url, token, http)
        for each in users:
            if user and each["name"] != user:
                continue
            for name, options in places(each, configuration.systems).items():
                if name in probed or (system and name != system):
                    continue
                probed.add(name)
                via = _via(configuration.systems[SystemName(name)])
                result.systems.append(await probe(hub, each["name"], options, via, say))
    missing = [name for name in configuration.systems if name not in probed and (not system or name == system)]
    result.problems += [f"no configured user may use {name}, so it was not probed" for name in missing]


def _via(system: System) -> str:
    """The address connections must come from: known where the login node is emulated."""
    return system.emulated.login_node if system.emulated and isinstance(system.reach, SshReach) else ""


def report(result: Result, *, as_json: bool) -> int:
    """Prints what was found; the exit code."""
    problems = result.problems + [f"{each.system}: {problem}" for each in result.systems for problem in each.problems]
    result.ok = not problems
    if as_json:
        print_json(result)
        return 0 if result.ok else 1
    rows = [("start-up", each.name, f"{each.seconds:.2f} s", "") for each in result.start_up]
    for system in result.systems:
        rows += [(system.system, each.name, f"{each.seconds:.2f} s", each.detail) for each in system.phases]
    print_table("phases", ("of", "phase", "time", ""), rows)
    for problem in problems:
        console.print(f"PROBLEM: {problem}", markup=False, highlight=False, soft_wrap=True)
    verdict = "all is well" if result.ok else f"{len(problems)} problems"
    console.print(f"{verdict}: {len(result.systems)} systems in {result.seconds:.1f} s", markup=False)
    return 0 if result.ok else 1


def _say(line: str) -> None:
    errors.print(line, markup=False, highlight=False, soft_wrap=True)


def _say_logs(installation: Installation) -> None:
    for name in ("hub", "accounts", "hpc_launcher", "tunneler"):
        _say(f"last of {name}: {installation.supervisor.tail(name, 8)}")
