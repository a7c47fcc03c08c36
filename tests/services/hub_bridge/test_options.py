"""Options of a start: one validation for form and API, one line for every mistake, whatever is thrown at it."""

from __future__ import annotations

import string
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from schemas.access import (
    AccessRecord,
    AccountAccess,
    OptionDefaults,
    OrganisationAccess,
    PartitionLimit,
    ProjectAccess,
    SystemAccess,
)
from schemas.base import SystemName, UserName
from schemas.session import HpcPlace
from services._runtime.systems import Reservation
from services.hub_bridge.offer import NOTHING, Offer, offer
from services.hub_bridge.options import FIELDS, Choice, OptionsError, choose, from_form, shown
from tests.support.catalogue import system
from tests.support.samples import NOW

RECORD = AccessRecord(
    user=UserName("ada"),
    vos=["default", "workshop"],
    systems=[
        SystemAccess(
            system=SystemName("demo-hpc"),
            accounts=[
                AccountAccess(
                    name="ada1",
                    projects=[ProjectAccess(name="ztrain"), ProjectAccess(name="zdev", partitions=["devel", "gone"])],
                ),
                AccountAccess(name="ada2", projects=[ProjectAccess(name="zgone", partitions=["gone"])]),
            ],
        ),
        SystemAccess(
            system=SystemName("second"), accounts=[AccountAccess(name="a", projects=[ProjectAccess(name="p")])]
        ),
        SystemAccess(system=SystemName("retired"), accounts=[AccountAccess(name="a", projects=[])]),
    ],
)
SYSTEMS = {SystemName("demo-hpc"): system(), SystemName("second"): system("second")}
OFFER = offer(SYSTEMS, RECORD, NOW)
SYSTEMS_OFFERED = OFFER.organisations["default"].systems
GOOD: dict[str, object] = {"system": "demo-hpc", "account": "ada1", "project": "ztrain", "partition": "batch"}


def test_the_offer_is_the_catalogue_cut_down_to_the_access() -> None:
    assert list(SYSTEMS_OFFERED) == ["demo-hpc", "second"], "no system that is not in the catalogue"
    demo = SYSTEMS_OFFERED["demo-hpc"]
    assert demo.accounts == {"ada1": {"ztrain": ["batch", "devel"], "zdev": ["devel"]}}, "nothing that leads nowhere"
    assert demo.partitions["devel"].max_runtime_minutes == 120
    assert offer(SYSTEMS, None, NOW) == NOTHING


WORKSHOP = OrganisationAccess(
    name="workshop",
    title="AI 2024",
    systems=[SystemName("demo-hpc")],
    limits=[
        PartitionLimit(
            system=SystemName("demo-hpc"), partition="batch", max_nodes=2, max_gpus=3, max_runtime_seconds=1800
        )
    ],
    valid_until=NOW + timedelta(days=1),
)


def test_an_organisation_offers_its_own_systems_within_its_own_limits() -> None:
    offered = offer(SYSTEMS, msgspec.structs.replace(RECORD, organisations=[WORKSHOP]), NOW)
    assert {name: list(each.systems) for name, each in offered.organisations.items()} == {
        "default": ["demo-hpc", "second"],
        "workshop": ["demo-hpc"],
    }
    assert offered.organisations["workshop"].title == "AI 2024"
    as_member: dict[str, object] = {**GOOD, "vo": "workshop"}
    assert choose(as_member, offered).runtime_minutes == 30
    assert choose({**as_member, "nodes": 2, "gpus": 3}, offered).gpus == 3
    for field, value in (("nodes", 3), ("gpus", 4), ("runtime_minutes", 31)):
        assert choose({**GOOD, "nodes": 3, field: value}, offered)
        with pytest.raises(OptionsError, match=f"^{field} = "):
            choose({**as_member, field: value}, offered)
    with pytest.raises(OptionsError, match=r"^system = 'second'"):
        choose({"vo": "workshop", "system": "second"}, offered)


def test_an_organisation_that_is_over_or_has_not_begun_is_not_offered() -> None:
    for period in ({"valid_until": NOW}, {"valid_from": NOW + timedelta(seconds=1)}):
        organisation = msgspec.structs.replace(WORKSHOP, **period)
        offered = offer(SYSTEMS, msgspec.structs.replace(RECORD, organisations=[organisation]), NOW)
        assert list(offered.organisations) == ["default"]


def test_what_is_left_out_takes_the_default_or_the_only_possibility() -> None:
    choice = choose(GOOD, OFFER)
    assert choice == Choice(
        system="demo-hpc", vo="default", account="ada1", project="ztrain", partition="batch", runtime_minutes=60
    )
    assert choose({"system": "demo-hpc", "project": "zdev"}, OFFER).partition == "devel"
    assert choice.place == HpcPlace(account="ada1", project="ztrain", partition="batch")
    assert choice.resources.runtime_seconds == 3600


def test_a_choice_is_kept_and_chosen_again() -> None:
    asked = {**GOOD, "nodes": 2, "gpus": 8, "cores": 5, "reservation": "workshop", "vo": "workshop"}
    choice = choose(asked, OFFER)
    assert choose(choice.options(), OFFER) == choice


def test_form_and_api_are_judged_alike() -> None:
    form = {**{name: [str(value)] for name, value in GOOD.items()}, "runtime_minutes": ["90"], "reservation": [""]}
    assert choose(from_form({**form, "_xsrf": ["token"]}), OFFER) == choose({**GOOD, "runtime_minutes": 90}, OFFER)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"system": "juwels"}, "system = 'juwels': not open to you; choose one of: demo-hpc, second"),
        ({"system": "demo-hcp"}, "system = 'demo-hcp': not open to you; did you mean demo-hpc?"),
        ({"system": None}, "system: missing; choose one of: demo-hpc, second"),
        ({"account": "ben1"}, "account = 'ben1': not open to you; choose one of: ada1"),
        ({"project": "zdev"}, "partition = 'batch': not open to you; choose one of: devel"),
        ({"partition": 7}, "partition = 7: not text; choose one of: batch, devel"),
        ({"runtime_minutes": 0}, "runtime_minutes = 0: outside the partition's limits; choose between 1 and 1440"),
        ({"runtime_minutes": "1e3"}, "runtime_minutes = '1e3': not a whole number; choose between 1 and 1440"),
        ({"runtime_minutes": "٣"}, "runtime_minutes = '٣': not a whole number; choose between 1 and 1440"),
        ({"runtime_minutes": 1.5}, "runtime_minutes = 1.5: not a whole number; choose between 1 and 1440"),
        ({"nodes": True}, "nodes = True: not a whole number; choose between 1 and 4"),
        ({"nodes": 5}, "nodes = 5: outside the partition's limits; choose between 1 and 4"),
        ({"gpus": 5}, "gpus = 5: outside the partition's limits; choose between 0 and 4"),
        ({"partition": "devel", "gpus": 1}, "gpus = 1: outside the partition's limits; it must be 0"),
        ({"reservation": "other"}, "reservation = 'other': not open to you; choose one of: workshop"),
        (
            {"partition": "devel", "reservation": "workshop"},
            "reservation = 'workshop': none is open to you there; leave it out",
        ),
        ({"vo": "root"}, "vo = 'root': not open to you; choose one of: default, workshop"),
        ({"software": "rstudio"}, "software = 'rstudio': not open to you; choose one of: jupyterlab"),
        ({"partiton": "batch"}, "'partiton': not an option; did you mean partition?"),
        ({"system": "a" * 200}, f"system = '{'a' * 55} ...: too long; choose one of: demo-hpc, second"),
    ],
)
def test_each_mistake_is_one_line_with_field_value_and_remedy(changes: dict[str, object], line: str) -> None:
    with pytest.raises(OptionsError) as refusal:
        choose({**GOOD, **changes}, OFFER)
    assert str(refusal.value) == line


def test_somebody_without_access_is_told_whom_to_ask() -> None:
    with pytest.raises(OptionsError, match="no system is open to you; ask your support"):
        choose(GOOD, NOTHING)


def test_a_field_given_twice_is_refused() -> None:
    with pytest.raises(OptionsError, match="'system': given 2 times; give it once"):
        from_form({"system": ["demo-hpc", "second"]})


nasty = (
    st.text(max_size=300)
    | st.sampled_from(
        ["../../etc/passwd", "; rm -rf / #", "$(id)", "a\nb", "\x00", "%s%n", "<script>", "é" * 200, "\ud800"]
    )
    | st.integers()
    | st.floats()
    | st.booleans()
    | st.none()
    | st.binary(max_size=20)
    | st.lists(st.integers(), max_size=3)
    | st.dictionaries(st.text(max_size=5), st.integers(), max_size=2)
)
allowed = st.sampled_from(
    ["demo-hpc", "second", "ada1", "a", "ztrain", "zdev", "p", "batch", "devel", "workshop", 1, 60, "90"]
)


@given(st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=40), allowed | nasty, max_size=12))
@example({"system": "demo-hpc\n"})
def test_whatever_is_asked_gives_an_allowed_choice_or_one_clear_line(options: dict[str, Any]) -> None:
    try:
        choice = choose(options, OFFER)
    except OptionsError as error:
        line = str(error)
        assert len(line) < 400
        assert all(letter.isprintable() for letter in line)
        assert "; " in line
        return
    _is_allowed(choice, OFFER)
    assert choose(choice.options(), OFFER) == choice


def _is_allowed(choice: Choice, offered: Offer) -> None:
    place = offered.organisations[choice.vo].systems[choice.system]
    assert choice.partition in place.accounts[choice.account][choice.project]
    limits = place.partitions[choice.partition]
    assert limits.min_runtime_minutes <= choice.runtime_minutes <= limits.max_runtime_minutes
    assert 1 <= choice.nodes <= limits.max_nodes
    assert 0 <= choice.gpus <= limits.gpus_per_node * choice.nodes
    assert choice.reservation is None or choice.reservation in limits.reservations


@given(st.dictionaries(st.text(max_size=10), st.lists(nasty, max_size=3), max_size=6))
def test_forms_are_lists_of_whatever(form: dict[str, list[Any]]) -> None:
    try:
        options = from_form(form)
    except OptionsError:
        return
    assert set(options) <= set(form)


@given(nasty)
def test_a_shown_value_is_short_and_printable(value: object) -> None:
    text = shown(value)
    assert len(text) <= 60
    assert all(letter.isprintable() for letter in text)
    assert not set(text) & (set(string.whitespace) - {" "})


def test_a_reservation_is_offered_to_its_projects_alone_and_names_nobody_elses() -> None:
    reserved = Reservation(projects=["zdev", "zsecret"], partitions=["devel"])
    systems = {SystemName("demo-hpc"): msgspec.structs.replace(system(), reservations={"course": reserved})}
    there = offer(systems, RECORD, NOW)
    assert there.organisations["default"].systems["demo-hpc"].reservations["course"].projects == ["zdev"]
    asked = {**GOOD, "project": "zdev", "partition": "devel", "reservation": "course"}
    choice = choose(asked, there)
    assert isinstance(choice, Choice)
    assert choice.reservation == "course"
    with pytest.raises(OptionsError, match="none is open to you there"):
        choose({**asked, "project": "ztrain"}, there)
    other = msgspec.structs.replace(system(), reservations={"other": Reservation(accounts=["somebody"])})
    assert (
        offer({SystemName("demo-hpc"): other}, RECORD, NOW).organisations["default"].systems["demo-hpc"].reservations
        == {}
    )


def test_an_organisations_defaults_hold_where_its_member_says_nothing_else() -> None:
    defaults = OptionDefaults(
        system=SystemName("demo-hpc"), partition="batch", runtime_seconds=1800, nodes=99, reservation="workshop"
    )
    member = OrganisationAccess(name="workshop", defaults=[defaults])
    there = offer(SYSTEMS, msgspec.structs.replace(RECORD, organisations=[member]), NOW)
    asked = {"vo": "workshop", "system": "demo-hpc", "account": "ada1", "project": "ztrain"}
    plain = choose(asked, there)
    assert isinstance(plain, Choice)
    assert (plain.partition, plain.runtime_minutes, plain.nodes, plain.reservation) == ("batch", 30, 4, "workshop")
    own = choose({**asked, "runtime_minutes": 20, "nodes": 1}, there)
    assert isinstance(own, Choice)
    assert (own.runtime_minutes, own.nodes) == (20, 1)
    elsewhere = choose({**asked, "partition": "devel"}, there)
    assert isinstance(elsewhere, Choice)
    assert (elsewhere.runtime_minutes, elsewhere.nodes, elsewhere.reservation) == (60, 1, None)
    closed = choose({**asked, "project": "zdev"}, there)
    assert isinstance(closed, Choice)
    assert (closed.partition, closed.runtime_minutes) == ("devel", 60), "what is not open is no default"
