from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from schemas.base import SessionId, UserName
from schemas.quota import QuotaUpdated
from schemas.session import Resources
from services.accounts.quotas import Full, QuotaState, claims, evolve, release, reserve
from services.accounts.settings import Quota
from tests.support.samples import Story

QUOTA = Quota(system="demo-hpc", limit=5, per_user=2)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["reserve", "release"]),
            st.integers(0, 9).map(lambda number: SessionId(f"s{number}")),
            st.integers(1, 3),
        )
    )
)
def test_no_order_of_acts_exceeds_a_limit_or_counts_twice(acts: list[tuple[str, SessionId, int]]) -> None:
    state = QuotaState()
    for act, session, amount in acts:
        user = UserName(f"u{int(session[1:]) % 3}")
        answer = reserve(state, QUOTA, session, user, amount) if act == "reserve" else release(state, QUOTA, session)
        if isinstance(answer, QuotaUpdated):
            state = evolve(state, answer)
            assert answer.used == state.used
            assert evolve(state, answer) == state
        assert state.used <= 5
        assert all(state.used_by(UserName(f"u{number}")) <= 2 for number in range(3))


def test_a_session_holds_its_share_once() -> None:
    state = QuotaState()
    first = reserve(state, QUOTA, SessionId("s"), UserName("ada"), 1)
    assert isinstance(first, QuotaUpdated)
    assert reserve(evolve(state, first), QUOTA, SessionId("s"), UserName("ada"), 1) is None


def test_a_full_quota_says_whose_it_is() -> None:
    held = evolve(QuotaState(), _reserved("a", "ada", 2))
    mine = reserve(held, QUOTA, SessionId("b"), UserName("ada"), 1)
    assert isinstance(mine, Full)
    assert "your 2" in mine.message
    everyones = reserve(evolve(held, _reserved("c", "ben", 2)), QUOTA, SessionId("d"), UserName("cleo"), 2)
    assert isinstance(everyones, Full)
    assert "All users" in everyones.message


def test_claims_name_only_what_the_start_uses() -> None:
    quotas = [
        QUOTA,
        Quota(system="demo-hpc", resource="gpus", limit=8),
        Quota(system="elsewhere", limit=1),
        Quota(vo="other", system="demo-hpc", limit=1),
        Quota(system="demo-hpc", resource="nodes", limit=8),
    ]
    request = Story().requested()
    assert [(quota.resource, amount) for quota, amount in claims(request, quotas)] == [("sessions", 1), ("nodes", 1)]
    assert request.resources == Resources(runtime_seconds=3600)


def _reserved(session: str, user: str, amount: int) -> QuotaUpdated:
    event = reserve(QuotaState(), Quota(system="demo-hpc"), SessionId(session), UserName(user), amount)
    assert isinstance(event, QuotaUpdated)
    return event
