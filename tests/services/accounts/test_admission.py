from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.base import SystemName, UserName
from schemas.session import CloudPlace, HpcPlace, Resources, StartRequested
from services._runtime.systems import Reservation, reservations_for
from services.accounts.admission import Allowed, Refused, Rules, judge
from services.accounts.settings import access_record
from tests.support.catalogue import system, user
from tests.support.samples import Story

RULES = Rules(
    {SystemName("demo-hpc"): system()},
    {UserName("ada"): access_record(user(projects={"ztrain": [], "short": ["devel"]}))},
    {},
)
REQUEST = Story().requested()


def place(**changes: str) -> HpcPlace:
    return msgspec.structs.replace(HpcPlace(account="ada1", project="ztrain", partition="batch"), **changes)


def resources(**changes: object) -> Resources:
    return msgspec.structs.replace(Resources(runtime_seconds=3600), **changes)


@pytest.mark.parametrize(
    ("change", "code", "remedy"),
    [
        ({"system": "nowhere"}, "unknown-system", "demo-hpc"),
        ({"user": "mallory"}, "unknown-user", "Ask your support"),
        ({"vo": "secret"}, "not-in-vo", "default"),
        ({"place": CloudPlace(flavour="m1")}, "wrong-kind", "account"),
        ({"place": place(account="ada2")}, "account-not-allowed", "'ada1'"),
        ({"place": place(project="ztrian")}, "project-not-allowed", "'ztrain'"),
        ({"place": place(project="short")}, "partition-not-allowed", "devel"),
        ({"place": place(partition="bacth")}, "partition-not-allowed", "'batch'"),
        ({"resources": resources(runtime_seconds=1)}, "under-the-limit", "60"),
        ({"resources": resources(runtime_seconds=86_401)}, "over-the-limit", "86400"),
        ({"resources": resources(nodes=5)}, "over-the-limit", "4"),
        ({"resources": resources(nodes=2, gpus=9)}, "over-the-limit", "8"),
        ({"resources": resources(cores=17)}, "over-the-limit", "16"),
        ({"resources": resources(reservation="maintenance")}, "reservation-not-allowed", "workshop"),
        ({"place": place(partition="devel"), "resources": resources(gpus=1)}, "over-the-limit", "It must be 0."),
    ],
)
def test_what_is_not_allowed_is_refused_with_a_remedy(change: dict[str, object], code: str, remedy: str) -> None:
    verdict = judge(msgspec.structs.replace(REQUEST, **change), RULES)
    assert isinstance(verdict, Refused)
    assert verdict.code == code
    assert remedy in verdict.remedy


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"resources": resources(nodes=4, gpus=16, cores=64)},
        {"resources": resources(reservation="workshop")},
        {"place": place(project="short", partition="devel")},
    ],
)
def test_what_is_allowed_is_allowed(change: dict[str, object]) -> None:
    assert judge(msgspec.structs.replace(REQUEST, **change), RULES) == Allowed("CN=ada")


def test_a_drained_system_takes_no_start_and_says_why() -> None:
    verdict = judge(REQUEST, msgspec.structs.replace(RULES, drained={SystemName("demo-hpc"): "new file system"}))
    assert isinstance(verdict, Refused)
    assert "new file system" in verdict.message


@given(
    st.builds(
        StartRequested,
        hub=st.just("main"),
        system=st.sampled_from(["demo-hpc", "", "../x", "näh"]),
        session=st.just(REQUEST.session),
        user=st.sampled_from(["ada", "ben", "../../etc"]) | st.text(max_size=200),
        vo=st.sampled_from(["default", "other"]),
        place=st.builds(HpcPlace, account=st.text(), project=st.text(), partition=st.text()),
        resources=st.builds(Resources, runtime_seconds=st.integers(), nodes=st.integers(), gpus=st.integers()),
        deadline=st.just(REQUEST.deadline),
    )
)
def test_the_judgement_is_total_and_admits_nothing_unknown(request: StartRequested) -> None:
    verdict = judge(request, RULES)
    if isinstance(verdict, Allowed):
        assert request.user == "ada"
        assert isinstance(request.place, HpcPlace)
        assert request.place.account == "ada1"
        assert 60 <= request.resources.runtime_seconds <= 86_400
    else:
        assert "\n" not in verdict.code
        assert verdict.remedy


@pytest.mark.parametrize(
    ("where", "open_there"),
    [
        ({"project": "ztrain"}, True),
        ({"project": "ztrain", "partition": "devel"}, False),
        ({"account": "ada", "project": "zelse"}, True),
        ({"account": "ada1", "project": "ztrain2"}, False),
        ({"account": "ada11", "project": "zelse"}, False),
    ],
)
def test_a_reservation_is_for_whole_names(where: dict[str, str], open_there: bool) -> None:
    """`account in users` of a text would let ada1 into what is ada's."""
    reserved = Reservation(projects=["ztrain"], accounts=["ada"], partitions=["batch"])
    there = msgspec.structs.replace(system(), reservations={"course": reserved})
    asked = place(**{"project": "zelse", **where})
    assert ("course" in reservations_for(there, asked)) is open_there
