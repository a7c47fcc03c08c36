from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from schemas.base import SessionId, UserName
from schemas.session import StartRequested
from services.accounts.line import in_turn, may_wait, standings
from services.accounts.quotas import Full, QuotaKey
from services.accounts.settings import Waiting
from tests.support.samples import NOW, Story

SESSIONS, GPUS = QuotaKey("default", "demo-hpc", "sessions"), QuotaKey("default", "demo-hpc", "gpus")


def start(user: str, minute: int, name: str = "") -> StartRequested:
    request = Story(user=user).requested()
    session = SessionId(f"{name or user}-{minute}")
    return msgspec.structs.replace(request, at=NOW + timedelta(minutes=minute), session=session)


def names(starts: list[StartRequested]) -> list[str]:
    return [each.session for each in starts]


def test_a_users_second_start_stands_behind_everybodys_first() -> None:
    line = in_turn([start("ada", 1), start("ada", 2), start("ada", 3), start("ben", 4), start("cleo", 5)], {})
    assert names(line) == ["ada-1", "ben-4", "cleo-5", "ada-2", "ada-3"]


def test_who_runs_something_already_stands_behind_who_does_not() -> None:
    assert names(in_turn([start("ada", 1), start("ben", 2)], {UserName("ada"): 1})) == ["ben-2", "ada-1"]


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 50)), unique_by=lambda each: each[1]))
def test_everybody_has_one_place_and_nobody_is_passed_by_twice_in_a_row(drawn: list[tuple[str, int]]) -> None:
    starts = [start(user, minute) for user, minute in drawn]
    line = in_turn(starts, {})
    assert sorted(names(line)) == sorted(names(starts))
    for number, each in enumerate(line):
        own_before = sum(other.user == each.user for other in line[:number])
        for user in {other.user for other in line[number + 1 :]}:
            assert sum(other.user == user for other in line[:number]) >= own_before


def _fulls(full: dict[str, list[tuple[QuotaKey, str]]]) -> Callable[[StartRequested], list[Full]]:
    return lambda request: [
        Full(key, "user" if whose == "user" else "all", f"{whose} {key.resource}", "")
        for key, whose in full.get(request.session, [])
    ]


def test_nobody_overtakes_who_waits_for_the_same_and_everybody_else_goes_on() -> None:
    line = [start("ada", 1), start("ben", 2), start("cleo", 3), start("dan", 4)]
    claims = {"ada-1": [GPUS, SESSIONS], "ben-2": [SESSIONS], "cleo-3": [GPUS, SESSIONS], "dan-4": [SESSIONS]}
    full = _fulls({"ada-1": [(GPUS, "all")]})
    stands = standings(line, full, lambda request: claims[request.session])
    kept = [each.kept_by.message if each.kept_by else "" for each in stands]
    assert kept == ["all gpus", "", "all gpus", "Somebody before you is about to get sessions on demo-hpc."]
    assert [each.place for each in stands] == [1, 2, 3, 4]


def test_a_user_with_too_much_of_his_own_keeps_nobody_else() -> None:
    line = [start("ada", 1), start("ben", 2)]
    stands = standings(line, _fulls({"ada-1": [(SESSIONS, "user")]}), lambda request: [SESSIONS])
    assert [each.kept_by is None for each in stands] == [False, True]


def test_a_line_has_bounds() -> None:
    waiting = Waiting(longest_seconds=600, most=3, most_per_user=2)
    mine, now = start("ada", 0), NOW + timedelta(minutes=1)
    assert may_wait(mine, [], waiting, now) is None
    line = [start("ada", 1), start("ada", 2)]
    assert _code(may_wait(mine, line, waiting, now)) == "too-many-waiting"
    line = [start("ben", 1), start("ben", 2), start("cleo", 3)]
    assert _code(may_wait(mine, line, waiting, now)) == "line-too-long"
    assert may_wait(line[0], line, waiting, now) is None  # who stands in it may go on
    assert _code(may_wait(line[0], line, waiting, NOW + timedelta(minutes=11))) == "waited-too-long"
    hurried = msgspec.structs.replace(mine, deadline=NOW + timedelta(seconds=30))
    assert _code(may_wait(hurried, [], waiting, now)) == "waited-too-long"


def _code(answer: object) -> str:
    return str(getattr(answer, "code", ""))
