from __future__ import annotations

from services.operator_cli.configuration_reference import page
from tests.support.running import ROOT


def test_the_page_is_what_the_settings_say() -> None:
    text = (ROOT / "docs" / "operators" / "configuration.md").read_text()
    assert text == page(), (
        "stale: python -m services.operator_cli.configuration_reference > docs/operators/configuration.md"
    )
