"""Whether a start on a cloud is allowed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from schemas.session import CloudPlace, HpcPlace, Resources
from services._runtime.clouds import CloudSystem, Flavour, Image
from services.accounts.clouds import fits_cloud
from services.accounts.verdicts import Allowed, Refused
from tests.services.cloud_launcher.stage import Story, cloud_at

FLAVOURS = {"small": Flavour(memory_bytes=2**30), "gpu": Flavour(gpus=1, organisations=["ai"])}
IMAGES = {"standard": Image(image="a"), "theirs": Image(image="b", organisations=["ai"])}
CLOUD: CloudSystem = cloud_at(Path("/nowhere"), flavours=FLAVOURS, images=IMAGES, organisations=["default", "ai"])


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({}, None),
        ({"place": CloudPlace(flavour="small", image="standard")}, None),
        (
            {
                "vo": "ai",
                "place": CloudPlace(flavour="gpu", image="theirs"),
                "resources": Resources(runtime_seconds=60, gpus=1),
            },
            None,
        ),
        ({"vo": "other"}, "system-not-allowed"),
        ({"place": HpcPlace(account="a", project="b", partition="c")}, "wrong-kind"),
        ({"place": CloudPlace(flavour="gpu")}, "flavour-not-allowed"),
        ({"place": CloudPlace(flavour="small", image="theirs")}, "image-not-allowed"),
        ({"resources": Resources(runtime_seconds=10**6)}, "over-the-limit"),
        ({"resources": Resources(runtime_seconds=60, gpus=1)}, "over-the-limit"),
        ({"vo": "ai", "place": CloudPlace(flavour="gpu")}, "under-the-limit"),
    ],
)
def test_a_start_on_a_cloud_is_judged(changes: dict[str, Any], code: str | None) -> None:
    verdict = fits_cloud(msgspec.structs.replace(Story().requested(), **changes), CLOUD)
    if code is None:
        assert isinstance(verdict, Allowed)
    else:
        assert isinstance(verdict, Refused)
        assert verdict.code == code
        assert verdict.remedy
