"""Virtual organisations: who is in, in which order, and what being in one takes away."""

from __future__ import annotations

from datetime import timedelta

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.access import AccessRecord, OrganisationAccess, PartitionLimit
from schemas.base import SystemName, UserName
from schemas.session import Resources
from services.accounts.admission import Allowed, Refused, Rules, judge, lost_right
from services.accounts.organisations import Organisation, memberships
from services.accounts.settings import access_record
from tests.support.catalogue import system, user
from tests.support.samples import NOW, Story

ADA = UserName("ada")
GROUP = "urn:geant:x:group:ai"
DEMO = SystemName("demo-hpc")
WORKSHOP = Organisation(name="ai24", title="AI 2024", groups=[GROUP], weight=5)


def names(*organisations: Organisation, groups: frozenset[str] = frozenset()) -> list[str]:
    return [each.name for each in memberships(ADA, groups, organisations)]


def test_members_are_those_of_its_groups_and_those_it_names_and_everybody_is_in_the_default() -> None:
    named = Organisation(name="lab", users=["ada"])
    others = Organisation(name="others", users=["ben"], groups=["urn:geant:x:group:b"])
    nobody = Organisation(name="nobody")
    assert names(WORKSHOP, named, others, nobody) == ["default", "lab"]
    assert names(WORKSHOP, named, others, nobody, groups=frozenset({GROUP})) == ["ai24", "default", "lab"]


def test_the_default_can_be_configured_and_weighs_what_it_says() -> None:
    default = Organisation(name="default", weight=9, systems=["demo-hpc"])
    assert names(WORKSHOP, default, groups=frozenset({GROUP})) == ["default", "ai24"]


@given(st.lists(st.sampled_from(["a", "b", "c", "d"]), unique=True), st.frozensets(st.sampled_from(["g1", "g2"])))
def test_memberships_are_each_once_and_always_with_the_default(some: list[str], groups: frozenset[str]) -> None:
    organisations = [Organisation(name=name, groups=["g1"], weight=len(name)) for name in some]
    found = names(*organisations, groups=groups)
    assert sorted(set(found)) == sorted(found)
    assert "default" in found
    assert set(found) - {"default"} == (set(some) if "g1" in groups else set())


def verdict(organisation: OrganisationAccess, resources: Resources | None = None) -> Allowed | Refused:
    configured = access_record(user("ada"))
    record = msgspec.structs.replace(configured, vos=[organisation.name], organisations=[organisation])
    request = msgspec.structs.replace(Story().requested(), vo=organisation.name, at=NOW)
    if resources is not None:
        request = msgspec.structs.replace(request, resources=resources)
    return judge(request, Rules({DEMO: system()}, {ADA: record}, {}))


def test_an_organisation_that_says_nothing_takes_nothing_away() -> None:
    assert isinstance(verdict(OrganisationAccess(name="lab")), Allowed)


@pytest.mark.parametrize(
    ("begin", "end", "code"),
    [
        (None, None, None),
        (NOW, None, None),
        (NOW + timedelta(seconds=1), None, "vo-not-valid"),
        (None, NOW + timedelta(seconds=1), None),
        (None, NOW, "vo-not-valid"),
    ],
)
def test_a_workshop_holds_from_its_beginning_until_before_its_end(begin: object, end: object, code: str | None) -> None:
    organisation = msgspec.structs.replace(OrganisationAccess(name="ai24"), valid_from=begin, valid_until=end)
    found = verdict(organisation)
    assert (found.code if isinstance(found, Refused) else None) == code


def test_a_system_outside_the_organisation_is_refused_with_those_inside() -> None:
    found = verdict(OrganisationAccess(name="ai24", title="AI 2024", systems=[SystemName("juwels")]))
    assert isinstance(found, Refused)
    assert (found.code, found.message) == ("system-not-in-vo", "AI 2024 does not include Demo HPC.")
    assert "juwels" in found.remedy


@pytest.mark.parametrize(
    ("resources", "allowed"),
    [
        (Resources(runtime_seconds=600), True),
        (Resources(runtime_seconds=601), False),
        (Resources(runtime_seconds=600, nodes=2), True),
        (Resources(runtime_seconds=600, nodes=3), False),
        (Resources(runtime_seconds=600, gpus=1), False),
    ],
)
def test_its_limits_narrow_those_of_the_partition(resources: Resources, allowed: bool) -> None:
    limit = PartitionLimit(system=DEMO, partition="batch", max_nodes=2, max_gpus=0, max_runtime_seconds=600)
    found = verdict(OrganisationAccess(name="ai24", limits=[limit]), resources)
    assert isinstance(found, Allowed) == allowed
    if isinstance(found, Refused):
        assert found.code == "over-the-limit"
        assert "ai24" in found.message


def test_a_running_session_loses_its_right_with_project_account_system_or_membership_and_by_nothing_else() -> None:
    request = Story().requested()
    full = access_record(user("ada"))
    without = {
        "record": None,
        "membership": msgspec.structs.replace(full, vos=["other"]),
        "system": msgspec.structs.replace(full, systems=[]),
        "account": access_record(user("ada", projects=None)),
        "project": access_record(user("ada", projects={"other": []})),
        "partition": access_record(user("ada", projects={"ztrain": ["devel"]})),
    }
    assert lost_right(request, full, system()) == ""
    assert lost_right(request, without["account"], system()) == ""
    for name in ("record", "membership", "system", "project", "partition"):
        assert lost_right(request, without[name], system()) != "", name
    over = msgspec.structs.replace(full, organisations=[OrganisationAccess(name="default", valid_until=NOW)])
    assert lost_right(request, over, system()) == ""
    assert isinstance(full, AccessRecord)
