"""What a user may choose on a cloud, and what becomes of a choice."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from schemas.access import AccessRecord, OrganisationAccess
from schemas.base import SystemName, UserName
from schemas.session import CloudPlace, Resources
from services._runtime.clouds import Flavour, Image
from services.hub_bridge.clouds import CloudChoice
from services.hub_bridge.form import options_form
from services.hub_bridge.offer import Offer, offer
from services.hub_bridge.options import OptionsError, choose
from tests.services.cloud_launcher.stage import CLOUD, cloud_at
from tests.support.catalogue import system

NOW = datetime(2026, 11, 23, tzinfo=UTC)
FLAVOURS = {"small": Flavour(cpu=0.5, max_age_seconds=7200), "gpu": Flavour(gpus=1, organisations=["ai"])}
CATALOGUE = {CLOUD: cloud_at(Path("/nowhere"), flavours=FLAVOURS, images={"lab": Image(image="a", title="JupyterLab")})}


def offered(record: AccessRecord | None = None) -> Offer:
    known = record or AccessRecord(user=UserName("ada"))
    return offer({SystemName("demo-hpc"): system()}, known, NOW, CATALOGUE)


def test_a_cloud_needs_no_account_and_what_is_left_out_takes_the_first() -> None:
    choice = choose({"system": "demo-cloud"}, offered())
    assert isinstance(choice, CloudChoice)
    assert choice.place == CloudPlace(flavour="small", image="lab")
    assert choice.resources == Resources(runtime_seconds=7200, cores=1, gpus=0, memory_bytes=2 * 1024**3)
    assert choose(choice.options(), offered()) == choice


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"flavour": "gpu"}, "flavour = 'gpu': not open to you; choose one of: small"),
        ({"image": "mine"}, "image = 'mine': not open to you; choose one of: lab"),
        ({"runtime_minutes": 121}, "runtime_minutes = 121: outside the flavour's limits; choose between 1 and 120"),
    ],
)
def test_a_mistake_is_one_line(options: dict[str, object], words: str) -> None:
    with pytest.raises(OptionsError) as wrong:
        choose({"system": "demo-cloud", **options}, offered())
    assert str(wrong.value) == words


def test_an_organisation_that_leaves_the_cloud_out_has_no_cloud() -> None:
    narrow = OrganisationAccess(name="default", systems=[SystemName("demo-hpc")])
    record = AccessRecord(user=UserName("ada"), organisations=[narrow])
    assert offered(record).organisations == {}
    closed = {CLOUD: msgspec.structs.replace(CATALOGUE[CLOUD], organisations=["ai"])}
    assert offer({}, AccessRecord(user=UserName("ada")), NOW, closed).organisations == {}


def test_the_form_has_the_cloud_among_the_systems() -> None:
    page = options_form(offered(), {})
    assert 'value="demo-cloud"' in page
    assert 'data-kind="cloud"' in page
    assert '"idle_minutes"' in page
