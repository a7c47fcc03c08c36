"""What the seeing commands do: fetch histories, ask what they say, print it for people or programs. Change nothing."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import msgspec

from schemas.base import SLUG_PATTERN, SessionId, event_name, message_type
from schemas.session import SessionEvent
from services._runtime.configuration import ConfigurationError
from services._runtime.connection import Broker
from services._runtime.errors import TransientError
from services._runtime.log import Recorded
from services._runtime.settings import Configuration
from services.accounts.settings import accounts_settings
from services.hpc_launcher.settings import launcher_settings
from services.hub_bridge.settings import HubBridgeSettings
from services.operator_cli.histories import Histories
from services.operator_cli.output import console, print_json, print_table
from services.operator_cli.story.explain import explain as explained
from services.operator_cli.story.history import find
from services.operator_cli.story.phases import phases
from services.operator_cli.story.row import Order, Row, Wanted, row, rows
from services.operator_cli.story.stats import stats as figures
from services.operator_cli.story.timeline import Step
from services.operator_cli.story.timeline import timeline as steps_of
from services.tunneler.settings import tunneler_settings

WATCH_SECONDS = 1.0


def check_sections(configuration: Configuration) -> None:
    """Reads every service's own table. Raises ConfigurationError."""
    accounts_settings(configuration)
    tunneler_settings(configuration)
    launcher_settings(configuration)
    configuration.section("hub_bridge", HubBridgeSettings)


async def log_is_there(broker: Broker, configuration: Configuration) -> None:
    """Raises TransientError when the broker has no event log for us, which a reader would wait for in vain."""
    nobody = SessionId("0" * 26)
    try:
        await broker.log.history("SESSIONS", configuration.subjects.session(nobody))
    except TransientError as error:
        servers = ", ".join(configuration.shared.nats.servers)
        raise TransientError(
            f"{servers} has no event log for prefix {configuration.shared.installation.prefix!r}, or does not let "
            f"operator-cli read it ({str(error).splitlines()[0]}); is this the configuration of a running installation?"
        ) from None


async def sessions(source: Histories, wanted: Wanted, *, order: Order, watch: bool, as_json: bool) -> int:
    """`farlab sessions`."""
    system_token(wanted.system)
    while True:
        histories = await source.all(system=wanted.system or "*")
        found = rows(histories, wanted, datetime.now(UTC), order)
        if watch and not as_json:
            console.clear()
        _print_rows(found, as_json=as_json)
        if not watch:
            return 0
        await asyncio.sleep(WATCH_SECONDS)


def _print_rows(found: Sequence[Row], *, as_json: bool) -> None:
    if as_json:
        print_json(found)
        return
    print_table(
        f"{len(found)} sessions",
        ("session", "user", "server", "system", "state", "for", "outcome", "reason"),
        [
            (
                each.session,
                each.user,
                each.server_name or "(default)",
                each.system,
                each.state,
                _ago(each.since),
                each.outcome,
                each.reason[:80],
            )
            for each in found
        ],
    )


async def timeline(source: Histories, wanted: str, *, as_json: bool) -> int:
    """`farlab timeline`."""
    history = find(await source.all(), wanted)
    steps = steps_of(history)
    if as_json:
        print_json(steps)
        return 0
    by_id = {step.id: step for step in steps}
    head = row(history)
    print_table(
        f"{head.session}: {head.user} on {head.system}, {head.state}" if head else "beginning not in the log",
        ("at", "after", "event", "state", "by", "because of", "details"),
        [
            (
                step.at.strftime("%H:%M:%S.%f")[:-3],
                f"{step.after_seconds:.3f} s",
                step.type,
                step.state,
                step.source.rpartition("/")[2],
                by_id[step.cause].type if step.cause in by_id else "",
                _details(step),
            )
            for step in steps
        ],
    )
    print_table(
        "phases",
        ("phase", "by", "time"),
        [
            (each.name, each.by, "not over yet" if each.seconds is None else f"{each.seconds:.3f} s")
            for each in phases(history)
        ],
    )
    return 0


async def explain(source: Histories, wanted: str, *, as_json: bool) -> int:
    """`farlab explain`."""
    history = find(await source.all(), wanted)
    said = explained(history, datetime.now(UTC))
    if as_json:
        print_json(said)
        return 0
    for line in (
        said.summary,
        f"Waits for: {said.waits_for}" if said.waits_for else "",
        *(f"  - {each}" for each in said.because),
        f"What helps: {said.remedy}" if said.remedy else "",
    ):
        if line:
            console.print(line, markup=False, highlight=False, soft_wrap=True)
    return 0


async def stats(source: Histories, wanted: Wanted, *, as_json: bool) -> int:
    """`farlab stats`."""
    system_token(wanted.system)
    begun = time.perf_counter()
    histories = [
        history
        for history in await source.all(system=wanted.system or "*")
        if (each := row(history)) is not None and (wanted.started_after is None or each.started >= wanted.started_after)
    ]
    found = figures(histories)
    if as_json:
        print_json(found)
        return 0
    print_table(
        f"{found.sessions} sessions, {found.ready} of them came to be used, {found.live} live "
        f"(read in {time.perf_counter() - begun:.1f} s)",
        ("system", "phase", "count", "p50", "p90", "p99", "longest"),
        [
            (each.system, each.phase, str(each.count), *(f"{value:.2f} s" for value in (each.p50, each.p90, each.p99)),
             f"{each.longest:.2f} s")
            for each in found.spreads
        ],
    )  # fmt: skip
    print_table(
        "why sessions failed",
        ("system", "count", "outcome", "reason"),
        [(each.system, str(each.count), each.outcome, each.reason[:120]) for each in found.failures],
    )
    return 0


class EventFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which events to print; an empty field asks for nothing."""

    event_type: str = ""
    session: str = ""
    since: datetime | None = None
    grep: str = ""

    def takes(self, event: SessionEvent) -> bool:
        """Whether an event is asked for."""
        return (
            event.session.startswith(self.session.lower())
            and self.event_type in ("", event_name(event), message_type(event))
            and (self.since is None or event.at >= self.since)
            and (not self.grep or self.grep.lower() in msgspec.json.encode(event).decode().lower())
        )


async def events(
    broker: Broker, configuration: Configuration, wanted: EventFilter, system: str, *, follow: bool, as_json: bool
) -> int:
    """`farlab events`."""

    def show(recorded: Recorded) -> None:
        event = recorded.message
        if not isinstance(event, SessionEvent) or not wanted.takes(event):
            return
        if as_json:
            print_json({"sequence": recorded.sequence, **msgspec.to_builtins(event)})
        else:
            when = event.at.strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
            line = f"{when} {recorded.sequence:>8} {event.session} {event.system} {event_name(event)}"
            console.print(line, markup=False, highlight=False, soft_wrap=True)

    subject = configuration.subjects.sessions(system=system_token(system) or "*")
    following = await broker.log.follow("SESSIONS", [subject], show)
    try:
        if follow:
            await asyncio.Event().wait()
    finally:
        await following.close()
    return 0


def duration(option: str, text: str) -> timedelta | None:
    """The duration an operator wrote, such as `90s`, `10m`, `2h` or `3d`; None for an empty text.

    Raises ConfigurationError, naming the option.
    """
    if not text:
        return None
    match = re.fullmatch(r"(\d{1,6})\s*([smhd])", text.strip())
    if match is None:
        raise ConfigurationError(f"{option} {text}: not a duration; write one such as 90s, 10m, 2h or 3d")
    return timedelta(seconds=int(match[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86_400}[match[2]])


def since(text: str, now: datetime) -> datetime | None:
    """The time meant by a duration before `now` such as `90s`, `10m`, `2h` or `3d`, or by an ISO 8601 time (UTC).

    None for an empty text. Raises ConfigurationError.
    """
    if not text:
        return None
    try:
        if (before := duration("--since", text)) is not None:
            return datetime.fromtimestamp(max(0.0, now.timestamp() - before.total_seconds()), UTC)
    except ConfigurationError:
        pass
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigurationError(
            f"--since {text}: not a time; write a duration such as 10m or 2h, or 2026-11-23T12:00:00"
        ) from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def system_token(wanted: str) -> str:
    """The name of a system as given. Raises ConfigurationError for what cannot be one, such as a wildcard."""
    if wanted and re.fullmatch(SLUG_PATTERN, wanted) is None:
        raise ConfigurationError(f"--system {wanted}: not the name of a system; `farlab config check` lists them")
    return wanted


def _ago(then: datetime) -> str:
    seconds = int((datetime.now(then.tzinfo) - then).total_seconds())
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length} {unit}"
    return f"{seconds} s"


def _details(step: Step) -> str:
    hidden = ("log_tail", "environment", "deadline", "base_url")
    shown = [f"{key}={value}" for key, value in step.details.items() if key not in hidden and value not in ("", None)]
    return " ".join(shown)[:200]
