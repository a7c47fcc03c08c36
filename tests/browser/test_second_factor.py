"""A researcher whose system wants a second factor: refused with a link, back at the same choice, and in."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.async_api import expect

from tests.browser.test_start import CHROMIUM, logged_in
from tests.support.running import RunningFarlab, running_farlab

pytestmark = [
    pytest.mark.real,
    pytest.mark.xdist_group("browser"),
    pytest.mark.timeout(300),
    pytest.mark.skipif(CHROMIUM is None and not os.environ.get("FARLAB_NO_SKIPS"), reason="chromium is not installed"),
]
STRICT = '\n[second_factor]\nlevels = ["mfa"]\nmax_age_seconds = 3600\n'


@pytest.fixture(scope="module")
def farlab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningFarlab]:
    with running_farlab(Path(tmp_path_factory.mktemp("farlab")), system_more=STRICT) as running:
        yield running


async def test_a_start_without_a_second_factor_leads_to_it_and_back(farlab: RunningFarlab) -> None:
    async with logged_in(farlab, "ada") as page:
        await page.select_option("select[name=account]", "lovelace2")
        await page.select_option("select[name=project]", "zanalytic")
        await page.fill("input[name=runtime_minutes]", "47")
        await page.keyboard.press("Tab")
        await page.click("#spawn_form button[type=submit]")
        await expect(page.get_by_text("wants a second factor").first).to_be_visible(timeout=60_000)
        await page.get_by_role("link", name="Sign in again").first.click()

        await page.fill("input[name=username]", "ada")
        await page.fill("input[name=password]", farlab.password)
        await page.fill("input[name=code]", "314159")
        await page.click("button[type=submit]")
        await page.wait_for_url(f"{farlab.url}hub/spawn/ada**")

        assert await page.input_value("select[name=account]") == "lovelace2"
        assert await page.input_value("select[name=project]") == "zanalytic"
        assert await page.input_value("input[name=runtime_minutes]") == "47"
        await page.click("#spawn_form button[type=submit]")
        await page.wait_for_url("**/user/ada/**", timeout=120_000)
