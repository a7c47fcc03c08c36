"""The commands that read the log, and the one that asks for a session's end."""

from __future__ import annotations

import asyncio
import re
from datetime import UTC, datetime

import msgspec

from schemas.base import SLUG_PATTERN, SessionId, event_name, message_type
from schemas.session import SessionEvent
from services._runtime.configuration import ConfigurationError
from services._runtime.connection import Broker
from services._runtime.errors import TransientError
from services._runtime.log import Recorded
from services._runtime.service import stamp_of
from services._runtime.settings import Configuration
from services.accounts.settings import accounts_settings
from services.hpc_launcher.settings import launcher_settings
from services.hub_bridge.settings import HubBridgeSettings
from services.operator_cli import sessions as log_of_sessions
from services.operator_cli.output import console, print_json, print_table
from services.tunneler.settings import tunneler_settings


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


async def sessions(
    broker: Broker, configuration: Configuration, user: str, system: str, *, live: bool, as_json: bool
) -> int:
    """`farlab sessions`."""
    histories = await log_of_sessions.read_sessions(
        broker.log, configuration.subjects, system=_system(configuration, system)
    )
    rows = [row for history in histories if (row := log_of_sessions.row(history)) is not None]
    rows = [row for row in rows if (not user or row.user == user) and not (live and row.state == "ended")]
    if as_json:
        print_json(rows)
        return 0
    print_table(
        f"{len(rows)} sessions",
        ("session", "user", "server", "system", "state", "for", "outcome", "reason"),
        [
            (
                row.session,
                row.user,
                row.server_name or "(default)",
                row.system,
                row.state,
                _ago(row.since),
                row.outcome,
                row.reason[:80],
            )
            for row in rows
        ],
    )
    return 0


async def timeline(broker: Broker, configuration: Configuration, wanted: str, *, as_json: bool) -> int:
    """`farlab timeline`."""
    histories = await log_of_sessions.read_sessions(broker.log, configuration.subjects)
    history = log_of_sessions.find(histories, wanted)
    steps = log_of_sessions.timeline(history)
    if as_json:
        print_json(steps)
        return 0
    by_id = {step.id: step for step in steps}
    row = log_of_sessions.row(history)
    title = f"{row.session}: {row.user} on {row.system}, {row.state}" if row else "beginning not in the log"
    print_table(
        title,
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
    return 0


async def events(
    broker: Broker,
    configuration: Configuration,
    event_type: str,
    system: str,
    session: str,
    *,
    since: datetime | None,
    follow: bool,
    as_json: bool,
) -> int:
    """`farlab events`."""

    def show(recorded: Recorded) -> None:
        event = recorded.message
        if not isinstance(event, SessionEvent) or not event.session.startswith(session.lower()):
            return
        if event_type and event_type not in (event_name(event), message_type(event)):
            return
        if since is not None and event.at < since:
            return
        if as_json:
            print_json({"sequence": recorded.sequence, **msgspec.to_builtins(event)})
        else:
            when = event.at.strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
            line = f"{when} {recorded.sequence:>8} {event.session} {event.system} {event_name(event)}"
            console.print(line, markup=False, highlight=False, soft_wrap=True)

    subject = configuration.subjects.sessions(system=_system(configuration, system))
    following = await broker.log.follow("SESSIONS", [subject], show)
    try:
        if follow:
            await asyncio.Event().wait()
    finally:
        await following.close()
    return 0


async def stop(broker: Broker, configuration: Configuration, wanted: str, reason: str) -> int:
    """`farlab stop`."""
    histories = await log_of_sessions.read_sessions(broker.log, configuration.subjects)
    history = log_of_sessions.find(histories, wanted)
    first = history[0].message
    if isinstance(first, SessionEvent):
        stamp = stamp_of(configuration, "operator-cli")
        said = await log_of_sessions.request_stop(broker.log, configuration.subjects, stamp, first.session, reason)
        console.print(f"{first.session}: {said}", markup=False, highlight=False)
    return 0


def since(text: str, now: datetime) -> datetime | None:
    """The time meant by a duration before `now` such as `90s`, `10m`, `2h` or `3d`, or by an ISO 8601 time (UTC).

    None for an empty text. Raises ConfigurationError.
    """
    if not text:
        return None
    if match := re.fullmatch(r"(\d{1,6})\s*([smhd])", text.strip()):
        seconds = int(match[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86_400}[match[2]]
        return datetime.fromtimestamp(max(0.0, now.timestamp() - seconds), UTC)
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigurationError(
            f"--since {text}: not a time; write a duration such as 10m or 2h, or 2026-11-23T12:00:00"
        ) from None
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def _system(configuration: Configuration, wanted: str) -> str:
    """The token for a system in a subject; a star for none. Raises ConfigurationError for what cannot be a system."""
    if wanted and re.fullmatch(SLUG_PATTERN, wanted) is None:
        raise ConfigurationError(
            f"--system {wanted}: not the name of a system; there are: {', '.join(configuration.systems)}"
        )
    return wanted or "*"


def _ago(then: datetime) -> str:
    seconds = int((datetime.now(then.tzinfo) - then).total_seconds())
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length} {unit}"
    return f"{seconds} s"


def _details(step: log_of_sessions.Step) -> str:
    hidden = ("log_tail", "environment", "deadline", "base_url")
    shown = [f"{key}={value}" for key, value in step.details.items() if key not in hidden and value not in ("", None)]
    return " ".join(shown)[:200]
