"""Rights as providers state them: both forms give one tree, groups have one name, and no damage opens anything."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.access import SystemAccess
from services.accounts.rights import hpc_infos
from services.accounts.rights.claims import ClaimNames, Rights, rights_in
from services.accounts.rights.entitlements import Group, OthersAccount, Unknown, canonical_group, groups_of, read
from services.accounts.rights.grant import Grant, Malformed
from services.accounts.rights.tree import accesses, merged
from tests.support.catalogue import system

NAMES = ClaimNames()
JUWELS = msgspec.structs.replace(
    system("juwels"), grants={"juwels": ["batch"], "juwels_devel": ["devel"], "judac": []}, open_partitions=[]
)
JUSUF = msgspec.structs.replace(system("jusuf"), grants={"jusuf": ["batch"]}, open_partitions=["devel"])
SYSTEMS = {each.name: each for each in (JUWELS, JUSUF)}
RESOURCE = "urn:geant:fz-juelich.de:jsc:res:juwels:ztrain:act:doe1:normal"
GROUP = "urn:geant:dfn.de:fz-juelich.de:jsc:group:jupyter:workshops:ai24"


def of(**claims: object) -> Rights:
    return rights_in({"preferred_username": "doe1", **claims}, NAMES)


def test_both_forms_give_the_same_grants() -> None:
    old = of(hpc_infos_attribute=["doe1,juwels,ZTRAIN,j.doe@example.org"])
    new = of(entitlements=[RESOURCE])
    assert old.grants == new.grants == {Grant("juwels", "doe1", "ztrain")}


def test_one_value_may_be_a_text_and_not_a_list() -> None:
    assert of(hpc_infos_attribute="doe1,juwels,ztrain,x").grants == {Grant("juwels", "doe1", "ztrain")}
    assert of(eduperson_entitlement=RESOURCE).grants == {Grant("juwels", "doe1", "ztrain")}


@pytest.mark.parametrize(
    ("account_type", "account", "expected"),
    [
        ("normal", "other", Grant("juwels", "other", "ztrain")),
        ("secondary", "doe1", Grant("juwels", "doe1", "ztrain")),
        ("secondary", "other", OthersAccount),
        ("tertiary", "doe1", Unknown),
    ],
)
def test_whose_accounts_may_be_used(account_type: str, account: str, expected: Any) -> None:
    found = read(f"urn:geant:x:res:juwels:ztrain:act:{account}:{account_type}", "doe1")
    assert found == expected if isinstance(expected, Grant) else isinstance(found, expected)


@pytest.mark.parametrize(
    "value",
    [
        "urn:geant:x:res:juwels:ztrain:act:doe1",
        "urn:geant:x:res:juwels:ztrain:act:doe1:normal:more",
        "urn:geant:x:res:juwels::act:doe1:normal",
        "urn:geant:x:res:juw%zzels:ztrain:act:doe1:normal",
        "urn:geant:x:res:juw%ffels:ztrain:act:doe1:normal",
        "urn:geant:x:res:juwels:ztr%20ain:act:doe1:normal",
        "urn:geant:x:res:juwels:ztrain:act:do%0ae1:normal",
        f"urn:geant:x:res:{'j' * 65}:ztrain:act:doe1:normal",
        "urn:geant:x:group:",
        "urn:geant:x:group:a::b",
        "urn:geant:x:group:a:role=",
        "urn:geant:x:group:role=member",
        "urn:geant:x:group:a%2",
        7,
        None,
    ],
)
def test_what_claims_to_be_a_right_and_is_not_is_named(value: object) -> None:
    found = read(value, "doe1")
    assert isinstance(found, Malformed)
    assert found.why


@pytest.mark.parametrize(
    "value",
    ["", "hello", "urn:mace:dir:entitlement:common-lib-terms", "urn:x", "https://x/res/y", "urn:geant:x:res:gpu"],
)
def test_what_is_none_of_ours_is_let_pass(value: str) -> None:
    assert isinstance(read(value, "doe1"), Unknown)


@pytest.mark.parametrize(
    "written",
    [
        GROUP,
        f"{GROUP}#login.example.org",
        GROUP.replace("urn:geant", "URN:GEANT"),
        GROUP.replace("jupyter", "%6Aupyter"),
        f" {GROUP} ",
    ],
)
def test_a_group_has_one_name_however_it_is_written(written: str) -> None:
    assert canonical_group(written) == GROUP


def test_names_are_told_apart_by_case_and_by_what_is_encoded() -> None:
    assert canonical_group(GROUP.replace("jupyter", "Jupyter")) != GROUP
    encoded = canonical_group("urn:geant:x:group:a%3Ab")
    assert encoded == "urn:geant:x:group:a%3Ab"
    assert encoded != canonical_group("urn:geant:x:group:a:b")
    assert canonical_group("urn:geant:x:group:gr%C3%BCn") == canonical_group("urn:geant:x:group:gr\u00fcn")


def test_who_is_in_a_group_is_in_its_parents_and_who_has_a_role_is_in_its_group() -> None:
    found = [read(f"{GROUP}:role=instructor#auth", "")]
    head = GROUP.rpartition(":group:")[0] + ":group"
    assert groups_of(found) == {f"{GROUP}:role=instructor", GROUP, f"{head}:jupyter:workshops", f"{head}:jupyter"}


component = st.text(min_size=1, max_size=12).filter(lambda text: not text.lower().startswith("role="))


@given(st.lists(component, min_size=1, max_size=6), component, st.booleans())
def test_every_group_name_can_be_written_and_is_read_as_itself_at_any_depth(
    path: list[str], authority: str, with_authority: bool
) -> None:
    from urllib.parse import quote

    written = ":".join(["urn:geant:example.org:group", *(quote(each, safe="") for each in path)])
    tail = "#" + quote(authority, safe="") if with_authority else ""
    found = read(written + tail, "")
    assert isinstance(found, Group)
    assert len(found.implied) == len(path) - 1
    assert canonical_group(found.name) == found.name
    assert all(canonical_group(each) == each for each in found.implied)


def test_rights_of_unknown_resources_open_nothing_and_a_login_node_is_no_partition() -> None:
    grants = [Grant("judac", "doe1", "ztrain"), Grant("elsewhere", "doe1", "ztrain")]
    assert accesses(grants, "CN=x", SYSTEMS) == []


def test_rights_of_several_resources_add_up_by_account_and_project() -> None:
    grants = [
        Grant("juwels", "a", "p"),
        Grant("juwels_devel", "a", "p"),
        Grant("juwels", "a", "q"),
        Grant("jusuf", "b", "p"),
    ]
    opened = {
        (access.system, account.name, project.name): project.partitions
        for access in accesses(grants, "CN=x", SYSTEMS)
        for account in access.accounts
        for project in account.projects
    }
    assert opened == {
        ("juwels", "a", "p"): ["batch", "devel"],
        ("juwels", "a", "q"): ["batch"],
        ("jusuf", "b", "p"): ["batch", "devel"],
    }


damage = st.one_of(
    st.text(max_size=80),
    st.integers(),
    st.none(),
    st.lists(st.text(max_size=5), max_size=3),
    st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=2),
    st.builds(lambda cut, put: RESOURCE[: cut % len(RESOURCE)] + put + RESOURCE[cut % len(RESOURCE) + 1 :],
              st.integers(0, 200), st.text(max_size=3)),
    st.builds(lambda cut: GROUP[: cut % len(GROUP)], st.integers(0, 200)),
    st.lists(st.text(max_size=20), max_size=6).map(",".join),
)  # fmt: skip


@given(st.lists(damage, max_size=6), damage)
def test_no_damage_raises_or_opens_what_was_not_granted(values: list[object], single: object) -> None:
    claims = {
        "entitlements": values,
        "eduperson_entitlement": single,
        "hpc_infos_attribute": values,
        "x500name": single,
    }
    rights = rights_in({**claims, "preferred_username": single}, NAMES)
    for access in accesses(rights.grants, rights.site_identity, SYSTEMS):
        for account in access.accounts:
            for project in account.projects:
                assert project.partitions, "no partition would mean all of them"
    for each in rights.malformed:
        assert each.value.isprintable()
        assert each.why


@given(st.lists(damage, max_size=5))
def test_damage_beside_a_good_value_does_not_take_it_away(values: list[object]) -> None:
    assert Grant("juwels", "doe1", "ztrain") in of(entitlements=[*values, RESOURCE]).grants


@pytest.mark.parametrize("line", ["", "a,b,c", "a,,c,d", "a b,juwels,p,m", ",juwels,p,m"])
def test_lines_that_are_not_of_four_names_are_named(line: str) -> None:
    [found] = hpc_infos.grants_in([line])
    assert isinstance(found, Malformed)


def test_several_sources_add_up_and_no_list_of_partitions_means_all_still() -> None:
    narrow = accesses([Grant("juwels", "a", "p"), Grant("juwels", "a", "q")], "", SYSTEMS)
    wide = msgspec.convert(
        [{"system": "juwels", "site_identity": "CN=a", "accounts": [{"name": "a", "projects": [{"name": "p"}]}]}],
        list[SystemAccess],
    )
    for order in ([narrow, wide], [wide, narrow]):
        [both] = merged(order)
        partitions = {project.name: project.partitions for project in both.accounts[0].projects}
        assert partitions == {"p": [], "q": ["batch"]}
        assert both.site_identity == "CN=a"
