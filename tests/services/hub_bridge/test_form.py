"""The form and the pages: data that cannot break out of its place, small scripts, nothing from elsewhere."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.hub_bridge.form import TEMPLATES, options_form, script_json
from services.hub_bridge.offer import NOTHING, Offer, OrganisationOffer, PartitionOffer, SystemOffer

LIMITS = PartitionOffer(
    title="</script><script>alert(1)",
    max_nodes=1,
    cores_per_node=1,
    gpus_per_node=0,
    max_gpus=0,
    min_runtime_minutes=1,
    max_runtime_minutes=2,
    default_runtime_minutes=1,
    reservations=[],
)
SYSTEMS = {
    '"><img>': SystemOffer(
        title="<i>Demo</i>",
        description="a & b",
        accounts={"a": {"<p>": ["batch"]}},
        partitions={"batch": LIMITS},
    )
}
EVIL = Offer(
    organisations={
        "default": OrganisationOffer(title="<b>All</b>", systems=SYSTEMS),
        '"><b>': OrganisationOffer(title="<b>", systems=SYSTEMS),
    }
)


def test_names_and_titles_are_never_markup() -> None:
    html = options_form(EVIL, {"system": "</script><x>", "nodes": 2, "other": ["</script>"]})
    assert "<img>" not in html
    assert "<i>" not in html
    assert "<x>" not in html
    assert "<b>" not in html
    assert html.count("</script>") == 3
    data = re.search(r'id="farlab-offer">(.*?)</script>', html, re.DOTALL)
    assert data is not None
    assert list(json.loads(data[1])["organisations"]["default"]["systems"]) == ['"><img>']


def test_somebody_without_access_gets_a_remedy_and_no_fields() -> None:
    html = options_form(NOTHING, {})
    assert "Ask your support" in html
    assert "<select" not in html


@given(st.dictionaries(st.text(max_size=20), st.text(max_size=50), max_size=5))
def test_json_in_a_script_is_json_and_never_ends_it(value: dict[str, str]) -> None:
    text = str(script_json(value))
    assert not set(text) & set("<>&")
    assert json.loads(text) == value


def test_every_field_has_a_label() -> None:
    html = options_form(EVIL, {})
    assert html.count("<label") >= html.count("<select") + html.count("<input")


def test_the_scripts_are_small_and_load_nothing() -> None:
    assert sum(file.stat().st_size for file in TEMPLATES.glob("*.js")) < 60_000
    for file in TEMPLATES.iterdir():
        assert not re.search(r"(?:src|href)=[\"']https?:|@import|url\(", file.read_text()), file


@pytest.mark.parametrize("name", ["farlab_options.js", "farlab_progress.js"])
def test_scripts_put_only_the_hubs_own_html_into_the_page(name: str) -> None:
    unsafe = re.findall(r"\.innerHTML = (.*);", (TEMPLATES / name).read_text())
    assert set(unsafe) <= {"said.html_message"}
