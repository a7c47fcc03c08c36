from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from schemas.acts import LimitRequested
from schemas.base import EventId, SessionId, UserName
from schemas.quota import LimitOf, LimitValue, QuotaUpdated
from schemas.session import Resources, StartRequested, Use
from services.accounts.quotas import Full, QuotaState, claims, evolve, period_begins, release, reserve, set_limit
from services.accounts.settings import Period, Quota
from tests.support.samples import NOW, Story

QUOTA = Quota(system="demo-hpc", limit=5, per_user=2)
OVER_TIME = Quota(system="demo-hpc", resource="core-seconds", limit=10_000, per_user=6_000, period="week")
ADA = UserName("ada")


def asked(value: LimitValue, of: LimitOf = "all", number: int = 1) -> LimitRequested:
    return LimitRequested(
        id=EventId(f"act-{number}"),
        service="accounts",
        by="op",
        reason="a workshop",
        vo="default",
        system="demo-hpc",
        resource="sessions",
        of=of,
        value=value,
    )


def after(state: QuotaState, event: QuotaUpdated | Full | None) -> QuotaState:
    assert isinstance(event, QuotaUpdated)
    return evolve(state, event)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["reserve", "release", "limit"]),
            st.integers(0, 9).map(lambda number: SessionId(f"s{number}")),
            st.integers(0, 3),
            st.integers(0, 60),
        ),
        max_size=60,
    ),
    st.sampled_from([QUOTA, OVER_TIME]),
)
def test_no_order_of_acts_exceeds_a_limit_or_counts_twice(
    acts: list[tuple[str, SessionId, int, int]], quota: Quota
) -> None:
    """A limit that was lowered below the use lets nobody in; nothing else is ever above one."""
    state, now, unit = QuotaState(), NOW, 1 if quota is QUOTA else 1500
    for number, (act, session, amount, hours) in enumerate(acts):
        now += timedelta(hours=hours)
        user = UserName(f"u{int(session[1:]) % 3}")
        before = state
        if act == "reserve":
            answer = reserve(state, quota, session, user, amount * unit, now)
        elif act == "release":
            answer = release(state, quota, session, Use(core_seconds=amount * unit // 2), now)
        else:
            answer = set_limit(state, quota, asked(amount * unit, number=number), now)
        if not isinstance(answer, QuotaUpdated):
            assert state is before
            continue
        state = evolve(state, answer)
        assert answer.used == state.used
        assert (answer.limit, answer.per_user) == (state.limit(quota, "all"), state.limit(quota, "each-user"))
        if act != "limit":
            assert evolve(state, answer) == state  # a change counts once
        if act == "reserve":
            assert answer.limit is None or state.used <= answer.limit
            assert answer.per_user is None or state.used_by(user) <= answer.per_user


def test_a_session_holds_its_share_once() -> None:
    state = after(QuotaState(), reserve(QuotaState(), QUOTA, SessionId("s"), ADA, 1, NOW))
    assert reserve(state, QUOTA, SessionId("s"), ADA, 1, NOW) is None


def test_a_full_quota_says_whose_it_is() -> None:
    held = evolve(QuotaState(), _reserved("a", "ada", 2))
    mine = reserve(held, QUOTA, SessionId("b"), ADA, 1, NOW)
    assert isinstance(mine, Full)
    assert (mine.whose, "your 2" in mine.message) == ("user", True)
    everyones = reserve(evolve(held, _reserved("c", "ben", 2)), QUOTA, SessionId("d"), UserName("cleo"), 2, NOW)
    assert isinstance(everyones, Full)
    assert (everyones.whose, "All users" in everyones.message) == ("all", True)


def test_what_was_used_counts_until_the_period_is_over() -> None:
    state = after(QuotaState(), reserve(QuotaState(), OVER_TIME, SessionId("a"), ADA, 6_000, NOW))
    assert isinstance(reserve(state, OVER_TIME, SessionId("b"), ADA, 1, NOW), Full)  # the most it can use is held
    state = after(state, release(state, OVER_TIME, SessionId("a"), Use(core_seconds=4_000), NOW))
    assert (state.used, state.used_by(ADA)) == (4_000, 4_000)
    full = reserve(state, OVER_TIME, SessionId("b"), ADA, 3_600, NOW)
    assert isinstance(full, Full)
    assert full.message == ("You use 1.111 of your 1.667 core-hours this week on demo-hpc; this start needs up to 1.")
    assert "next week" in full.remedy
    state = after(state, reserve(state, OVER_TIME, SessionId("b"), ADA, 2_000, NOW))
    later = NOW + timedelta(days=7)
    assert isinstance(reserve(state, OVER_TIME, SessionId("c"), ADA, 5_000, later), Full)  # b runs on
    state = after(state, reserve(state, OVER_TIME, SessionId("c"), ADA, 4_000, later))
    assert state.used == 6_000  # what a used is forgotten, what b and c may use is not


def test_an_event_of_an_earlier_period_brings_nothing_back() -> None:
    """A replica whose clock is behind writes after the turn of the week."""
    state = after(QuotaState(), reserve(QuotaState(), OVER_TIME, SessionId("a"), ADA, 100, NOW))
    later = after(state, reserve(state, OVER_TIME, SessionId("b"), ADA, 100, NOW + timedelta(days=7)))
    late = after(later, release(later, OVER_TIME, SessionId("a"), Use(core_seconds=60), NOW))
    assert late.period_begins == period_begins("week", NOW + timedelta(days=7))
    assert late.used == 160


def test_periods_begin_by_utc() -> None:
    at = datetime(2026, 11, 25, 0, 30, tzinfo=UTC).astimezone()
    begins: dict[Period, datetime] = {
        "day": datetime(2026, 11, 25, tzinfo=UTC),
        "week": datetime(2026, 11, 23, tzinfo=UTC),
        "month": datetime(2026, 11, 1, tzinfo=UTC),
    }
    assert {period: period_begins(period, at) for period in begins} == begins
    assert period_begins(None, at) is None


def test_an_operators_limit_holds_at_once_over_the_configured_one_until_it_is_taken_back() -> None:
    state = evolve(QuotaState(), _reserved("a", "ada", 2))
    state = after(state, set_limit(state, QUOTA, asked(2), NOW))
    assert isinstance(reserve(state, QUOTA, SessionId("b"), UserName("ben"), 1, NOW), Full)
    assert set_limit(state, QUOTA, asked(2), NOW) is None  # obeyed already
    state = after(state, set_limit(state, QUOTA, asked("unlimited", number=2), NOW))
    state = after(state, set_limit(state, QUOTA, asked(9, "each-user", number=3), NOW))
    event = reserve(state, QUOTA, SessionId("b"), ADA, 6, NOW)
    assert isinstance(event, QuotaUpdated)
    assert (event.limit, event.per_user, event.used) == (None, 9, 8)
    state = after(state, set_limit(state, QUOTA, asked("configured", number=4), NOW))
    assert state.limit(QUOTA, "all") == 5


def test_a_limit_below_the_use_takes_nothing_away_and_lets_nobody_in() -> None:
    state = evolve(QuotaState(), _reserved("a", "ada", 2))
    state = after(state, set_limit(state, QUOTA, asked(0), NOW))
    assert state.used == 2
    assert isinstance(reserve(state, QUOTA, SessionId("b"), UserName("ben"), 1, NOW), Full)


def test_claims_name_only_what_the_start_uses() -> None:
    quotas = [
        QUOTA,
        Quota(system="demo-hpc", resource="gpus", limit=8),
        Quota(system="elsewhere", limit=1),
        Quota(vo="other", system="demo-hpc", limit=1),
        Quota(system="demo-hpc", resource="nodes", limit=8),
        Quota(system="demo-hpc", resource="memory-bytes", limit=8),
        OVER_TIME,
    ]
    request = Story().requested()
    assert request.resources == Resources(runtime_seconds=3600)
    assert [(quota.resource, amount) for quota, amount in claims(request, quotas, _cores)] == [
        ("sessions", 1),
        ("nodes", 1),
        ("core-seconds", 16 * 3600),
    ]
    greedy = msgspec.structs.replace(request, resources=Resources(runtime_seconds=60, gpus=2, memory_bytes=2**30))
    assert [(quota.resource, amount) for quota, amount in claims(greedy, quotas, _cores)] == [
        ("sessions", 1),
        ("gpus", 2),
        ("nodes", 1),
        ("memory-bytes", 2**30),
        ("core-seconds", 960),
    ]


def _cores(_request: StartRequested) -> int:
    return 16


def _reserved(session: str, user: str, amount: int) -> QuotaUpdated:
    event = reserve(QuotaState(), Quota(system="demo-hpc"), SessionId(session), UserName(user), amount, NOW)
    assert isinstance(event, QuotaUpdated)
    return event
