"""`farlab up --check` and `farlab check`: a user's day on every system, and a look for what is left. Mends nothing."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from schemas.base import SystemName
from services._runtime.clouds import CatalogueEntry, CloudSystem
from services._runtime.configuration import ConfigurationError
from services._runtime.errors import TransientError
from services._runtime.settings import Configuration
from services._runtime.systems import SshReach
from services.operator_cli.emulated_sign_in import emulated
from services.operator_cli.leftovers import Server, left_behind
from services.operator_cli.output import console, errors, print_json, print_table
from services.operator_cli.probe import TROUBLE, Hub, Phase, Report, Way, places, probe, told
from services.operator_cli.state_folder import StateFolder
from services.operator_cli.supervisor import NotReadyError
from services.operator_cli.up import Installation, left_over
from services.operator_cli.web_sign_in import WebSignIn

SIGN_IN_SECONDS = 30.0
LAST_BREATH_SECONDS = 3.0
"""How long a process that was killed may take to disappear."""

SayLine = Callable[[str], None]


class Result(msgspec.Struct, kw_only=True):
    """What a check found; `ok` says all of it in a word."""

    ok: bool = False
    seconds: float = 0.0
    start_up: list[Phase] = []
    sign_in: list[Phase] = []
    systems: list[Report] = []
    clearing_up: list[Phase] = []
    problems: list[str] = []


async def run_check(source: Configuration, *, as_json: bool) -> int:
    """The exit code of `farlab up --check`: 0 when every system worked and nothing was left."""
    begun = time.perf_counter()
    result = Result()

    def say(name: str, what: str) -> None:
        _say(f"{name}: {what}")
        if what.startswith("ready in"):
            result.start_up.append(Phase(name=name, seconds=float(what.split()[2])))

    with _ending_on_signals(), tempfile.TemporaryDirectory(prefix="farlab-check-") as temporary:
        state = StateFolder(Path(temporary))
        installation = Installation(source, state, public_port=0, say=say)
        try:
            await installation.start()
            await _sign_in_and_out(result, source, installation.url, state.secret("password"))
            token = state.secret("operator.token")
            await probe_all(result, installation.configuration, installation.url, token, "", "", _say)
        except (NotReadyError, TransientError) as error:
            result.problems.append(str(error))
        finally:
            with _timed(result, "shut down"):
                await installation.stop()
        with _timed(result, "no process is left"):
            result.problems += [f"process {pid} is left" for pid in await _still_there(state.path)]
        if result.problems or any(report.problems for report in result.systems):
            for name in installation.supervisor.names():
                _say(f"last of {name}: {installation.supervisor.tail(name, 8)}")
    result.seconds = round(time.perf_counter() - begun, 2)
    return report(result, as_json=as_json)


async def check_hub(
    configuration: Configuration, hub: str, token: str, user: str, system: str, *, as_json: bool
) -> int:
    """The exit code of `farlab check`. Raises ConfigurationError for a system or user that is not configured."""
    if system and system not in configuration.catalogue:
        raise ConfigurationError(
            f"--system {system}: there is no such system; there are: {', '.join(configuration.catalogue)}"
        )
    names = [each["name"] for each in _users(configuration)]
    if user and user not in names:
        raise ConfigurationError(f"--user {user}: not a configured user; there are: {', '.join(names)}")
    begun = time.perf_counter()
    result = Result()
    with _ending_on_signals():
        await probe_all(result, configuration, hub, token, user, system, _say)
    result.seconds = round(time.perf_counter() - begun, 2)
    return report(result, as_json=as_json)


async def probe_all(
    result: Result, configuration: Configuration, url: str, token: str, user: str, system: str, say: SayLine
) -> None:
    """Probes every system somebody configured may use, one user a system, and looks for what is left of it.

    `user` and `system` narrow it.
    """
    probed: set[str] = set()
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as http:
        hub = Hub(url, token, http)
        for each in _users(configuration):
            if user and each["name"] != user:
                continue
            for name, options in places(each, configuration.systems, configuration.clouds).items():
                if name in probed or (system and name != system):
                    continue
                probed.add(name)
                way = way_to(configuration.catalogue[SystemName(name)])
                result.systems.append(await probe(hub, each["name"], options, way, say))
    who = f"{user} may not" if user else "no configured user may"
    missing = [name for name in configuration.catalogue if name not in probed and (not system or name == system)]
    result.problems += [f"{who} use {name}, so it was not probed" for name in missing]
    with _timed(result, "nothing is left of the sessions"):
        servers = [Server(report.user, report.server) for report in result.systems]
        try:
            result.problems += [f"left behind: {what}" for what in await left_behind(configuration, servers)]
        except TransientError as error:
            result.problems.append(f"what is left could not be looked for: {error}")


async def _sign_in_and_out(result: Result, source: Configuration, url: str, password: str) -> None:
    """Lets a user of the emulated provider in and out again, as a browser does; a user with a second factor uses it."""
    if (provider := emulated(source)) is None or not provider.users:
        return
    user = provider.users[0]
    timeout = aiohttp.ClientTimeout(total=SIGN_IN_SECONDS)
    async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True), timeout=timeout) as http:
        way = WebSignIn(url, http)
        try:
            query = "?acr_values=mfa" if user.second_factor else ""
            result.sign_in = [await way.enter(user.name, password, user.second_factor, query), await way.leave()]
        except TROUBLE as error:
            result.problems.append(f"sign-in: {told(error)}")
    for phase in result.sign_in:
        _say(f"{phase.name} {phase.seconds:.2f} s {phase.detail}")


def way_to(system: CatalogueEntry) -> Way:
    """How a server on the system must be reached: known where compute and login nodes are emulated. Pure."""
    if isinstance(system, CloudSystem) or system.emulated is None:
        return Way()
    via = system.emulated.login_node if isinstance(system.reach, SshReach) else ""
    return Way(via=via, nodes=system.emulated.compute_nodes)


def report(result: Result, *, as_json: bool) -> int:
    """Prints what was found; the exit code."""
    problems = result.problems + [f"{each.system}: {problem}" for each in result.systems for problem in each.problems]
    result.ok = not problems
    if as_json:
        print_json(result)
        return 0 if result.ok else 1
    rows = [("start-up", each.name, f"{each.seconds:.2f} s", "") for each in result.start_up]
    rows += [("sign-in", each.name, f"{each.seconds:.2f} s", each.detail) for each in result.sign_in]
    for system in result.systems:
        rows += [(system.system, each.name, f"{each.seconds:.2f} s", each.detail) for each in system.phases]
    rows += [("clearing up", each.name, f"{each.seconds:.2f} s", "") for each in result.clearing_up]
    print_table("phases", ("of", "phase", "time", ""), rows)
    for problem in problems:
        console.print(f"PROBLEM: {problem}", markup=False, highlight=False, soft_wrap=True)
    verdict = "all is well" if result.ok else f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"
    count = len(result.systems)
    console.print(f"{verdict}: {count} system{'s' if count != 1 else ''} in {result.seconds:.1f} s", markup=False)
    return 0 if result.ok else 1


def _users(configuration: Configuration) -> list[dict[str, Any]]:
    users: list[dict[str, Any]] = configuration.sections.get("accounts", {}).get("users", [])
    return users


async def _still_there(folder: Path) -> list[int]:
    until = time.monotonic() + LAST_BREATH_SECONDS
    while (left := list(left_over(folder))) and time.monotonic() < until:
        await asyncio.sleep(0.05)
    return left


@contextmanager
def _timed(result: Result, phase: str) -> Iterator[None]:
    begun = time.perf_counter()
    yield
    result.clearing_up.append(Phase(name=phase, seconds=round(time.perf_counter() - begun, 3)))


@contextmanager
def _ending_on_signals() -> Iterator[None]:
    """A check that is told to end still takes down what it started."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    for number in numbers:
        if task is not None:
            loop.add_signal_handler(number, task.cancel)
    try:
        yield
    finally:
        for number in numbers:
            with contextlib.suppress(ValueError):
                loop.remove_signal_handler(number)


def _say(line: str) -> None:
    errors.print(line, markup=False, highlight=False, soft_wrap=True)
