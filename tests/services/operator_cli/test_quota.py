"""`farlab quota`: what it shows, what it asks for, and that the real accounts service obeys at once."""

from __future__ import annotations

import asyncio
import json

import pytest

from schemas.acts import LimitRequested
from schemas.base import SessionId, SystemName, UserName
from schemas.quota import LimitOf, LimitValue, QuotaUpdated
from schemas.session import Use
from services._runtime.configuration import ConfigurationError
from services._runtime.log import Recorded
from services._runtime.settings import Configuration
from services.accounts.build import build
from services.accounts.quotas import QuotaKey, QuotaState, evolve, release, reserve, set_limit
from services.accounts.settings import Quota
from services.operator_cli.acts import quota
from tests.services.operator_cli.conftest import signed_in
from tests.services.operator_cli.test_reading_commands import farlab
from tests.support.samples import NOW

SESSIONS = Quota(system="demo-hpc", limit=4, per_user=2)
HOURS = Quota(system="demo-hpc", resource="core-seconds", limit=36_000, period="week")
ADA = UserName("ada")


def test_a_quota_stands_as_its_events_say() -> None:
    events = []
    state = QuotaState()
    for change in (
        lambda at: reserve(at, HOURS, SessionId("a"), ADA, 7200, NOW),
        lambda at: release(at, HOURS, SessionId("a"), Use(core_seconds=3600), NOW),
        lambda at: set_limit(at, HOURS, _asked(72_000), NOW),
    ):
        event = change(state)
        assert isinstance(event, QuotaUpdated)
        state = evolve(state, event)
        events.append(event)
    history = [Recorded(number, event) for number, event in enumerate(events, 1)]
    hours, sessions = quota.standings([SESSIONS, HOURS], history)
    assert (hours.used, hours.limit, hours.period, hours.set_by) == (3600, 72_000, "week", "operator op")
    assert hours.users == [quota.Use(user=ADA, used=3600)]
    assert (sessions.used, sessions.limit, sessions.per_user, sessions.set_by) == (0, 4, 2, "")


def _asked(value: LimitValue, of: LimitOf = "all") -> LimitRequested:
    return LimitRequested(
        service="accounts",
        by="operator op",
        reason="a workshop",
        vo="default",
        system=SystemName("demo-hpc"),
        resource="core-seconds",
        of=of,
        value=value,
    )


@pytest.mark.parametrize(
    ("resource", "text", "value"),
    [
        ("sessions", "8", 8),
        ("sessions", "unlimited", "unlimited"),
        ("gpus", "Configured", "configured"),
        ("memory-bytes", "64GiB", 64 * 2**30),
        ("memory-bytes", "1024", 1024),
        ("core-seconds", "200h", 720_000),
    ],
)
def test_limits_are_written_as_people_write_them(resource: str, text: str, value: LimitValue) -> None:
    assert quota.limit_value(resource, text) == value


@pytest.mark.parametrize(
    ("resource", "text"), [("sessions", "8h"), ("sessions", "-1"), ("gpus", "many"), ("core-seconds", "1.5h")]
)
def test_what_is_no_limit_gets_a_remedy(resource: str, text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"not a limit of .*; write a whole number"):
        quota.limit_value(resource, text)


def test_a_limit_below_the_use_is_told_before() -> None:
    here = quota.Standing(
        vo="default",
        system="demo-hpc",
        resource="sessions",
        period=None,
        limit=4,
        per_user=2,
        used=3,
        sessions=3,
        users=[quota.Use(user=ADA, used=2)],
    )
    key = QuotaKey("default", "demo-hpc", "sessions")
    assert quota.preview(here, key, "all", 8) == ["default demo-hpc sessions: all users together: 4 -> 8"]
    lines = quota.preview(here, key, "each-user", 1)
    assert lines[0].endswith("each user: 2 -> 1")
    assert "2 are in use: nothing running is taken away" in lines[1]


def test_what_is_no_quota_gets_a_near_miss(guarded: Configuration) -> None:
    for words, hint in (
        (("defualt", "demo-hpc", "sessions"), "did you mean 'default'"),
        (("default", "demo-hcp", "sessions"), "did you mean 'demo-hpc'"),
        (("default", "demo-hpc", "session"), "did you mean 'sessions'"),
    ):
        with pytest.raises(ConfigurationError, match=hint):
            quota.checked(guarded, *words)


async def test_a_limit_that_is_typed_holds_at_once(guarded: Configuration) -> None:
    async with signed_in(guarded, "accounts") as accounts:
        app = build(guarded, accounts)
        await app.start()
        words = ("quota", "set", "default", "demo-hpc", "sessions", "0", "--reason", "cooling")
        unasked = await farlab(guarded.file, *words)
        assert (unasked[0], "add --yes" in unasked[2]) == (2, True)
        done = await farlab(guarded.file, *words, "--yes")
        assert done[0] == 0, done
        key = QuotaKey("default", "demo-hpc", "sessions")
        async with asyncio.timeout(20):
            while app.ledger._accounts[key].state.limits != {"all": 0}:
                await asyncio.sleep(0.02)
        shown = json.loads((await farlab(guarded.file, "quota", "show", "--json"))[1])
        assert [(each["limit"], each["used"], each["set_by"].split()[0]) for each in shown] == [(0, 0, "operator")]
        await app.close()
