"""A researcher in a real browser: log in, choose, start, watch, run a cell, stop; and cancel half-way."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from playwright.async_api import Page, async_playwright, expect

from tests.support.running import RunningFarlab, running_farlab

CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.real,
    pytest.mark.xdist_group("browser"),
    pytest.mark.timeout(300),
    pytest.mark.skipif(CHROMIUM is None and not os.environ.get("FARLAB_NO_SKIPS"), reason="chromium is not installed"),
]
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]


@pytest.fixture(scope="module")
def farlab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningFarlab]:
    with running_farlab(Path(tmp_path_factory.mktemp("farlab")), queue_seconds=2.0, with_cloud=True) as running:
        yield running


@asynccontextmanager
async def logged_in(farlab: RunningFarlab, user: str) -> AsyncIterator[Page]:
    assert CHROMIUM is not None, "chromium is not installed"
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        page = await browser.new_page()
        page.set_default_timeout(120_000)
        await page.goto(farlab.url)
        await (
            page.get_by_role("link", name="Sign in with Demo Identity Provider")
            .or_(page.get_by_role("button", name="Sign in with Demo Identity Provider"))
            .click()
        )
        await page.fill("input[name=username]", user)
        await page.fill("input[name=password]", farlab.password)
        await page.click("button[type=submit]")
        await page.wait_for_url(f"{farlab.url}**")
        await page.goto(f"{farlab.url}hub/spawn")
        yield page
        await browser.close()


async def stop_on_home(page: Page) -> None:
    """Stops the server on JupyterHub's own page, whose button does nothing until its script is there."""
    await page.wait_for_function("window.jQuery && jQuery._data(document.querySelector('#stop'), 'events')?.click")
    await page.click("#stop")


async def test_a_researcher_starts_uses_and_stops_jupyterlab(farlab: RunningFarlab) -> None:
    async with logged_in(farlab, "ada") as page:
        await page.select_option("select[name=account]", "lovelace1")
        await page.select_option("select[name=project]", "zbridge")
        assert await page.eval_on_selector_all("select[name=partition] option", "all => all.map(one => one.value)") == [
            "devel"
        ]
        await page.fill("input[name=runtime_minutes]", "30")
        await page.click("#spawn_form button[type=submit]")
        await expect(page.get_by_text("The job is handed to the scheduler.").first).to_be_visible(timeout=60_000)
        await page.wait_for_url("**/user/ada/lab**")
        await page.locator(".jp-LauncherCard", has_text="Python 3").first.click()
        await page.wait_for_selector(".jp-Notebook .cm-content")
        await page.wait_for_selector(".jp-Notebook-ExecutionIndicator[data-status=idle]")
        await page.click(".jp-Notebook .cm-content")
        await page.keyboard.type("print('it is', 6 * 7)")
        async with asyncio.timeout(90):  # a kernel that is still connecting takes nothing: press again, as one does
            while "it is 42" not in await page.locator(".jp-Notebook").inner_text():
                await page.locator(".jp-Notebook .cm-content").first.click()
                await page.keyboard.press("Control+Enter")
                await asyncio.sleep(0.5)

        await page.goto(f"{farlab.url}hub/home")
        await stop_on_home(page)
        await expect(page.locator("#start")).to_have_text(re.compile("Start My Server"), timeout=60_000)
    rows = [row for row in await asyncio.to_thread(farlab.farlab, "sessions") if row["user"] == "ada"]
    assert [(row["state"], row["outcome"]) for row in rows] == [("ended", "stopped")]


async def test_a_researcher_chooses_a_flavour_on_a_cloud(farlab: RunningFarlab) -> None:
    async with logged_in(farlab, "ben") as page:
        await expect(page.locator("select[name=flavour]")).to_be_hidden()
        await page.click("[data-system=demo-cloud]", timeout=10_000)
        await expect(page.locator("select[name=partition]")).to_be_hidden()
        await page.select_option("select[name=flavour]", "small")
        await expect(page.locator(".farlab-summary")).to_have_text("JupyterLab on Demo Cloud, Small: 8 h.")
        await page.click("[data-system=demo-hpc]", timeout=10_000)
        await expect(page.locator("select[name=flavour]")).to_be_hidden()
        await expect(page.locator("select[name=partition]")).to_be_visible()
        await page.click("[data-system=demo-cloud]", timeout=10_000)
        await page.click("#spawn_form button[type=submit]")
        await page.wait_for_url("**/user/ben/lab**")
        await page.goto(f"{farlab.url}hub/home")
        await stop_on_home(page)
        await expect(page.locator("#start")).to_have_text(re.compile("Start My Server"), timeout=60_000)
    rows = [row for row in await asyncio.to_thread(farlab.farlab, "sessions") if row["system"] == "demo-cloud"]
    assert [(row["state"], row["outcome"]) for row in rows] == [("ended", "stopped")]


async def test_a_start_is_cancelled_on_its_page(farlab: RunningFarlab) -> None:
    async with logged_in(farlab, "ben") as page:
        await page.click("[data-system=demo-hpc]", timeout=10_000)
        await page.click("#spawn_form button[type=submit]")
        await expect(page.get_by_text("The job exists at Demo HPC.").first).to_be_visible(timeout=60_000)
        await page.get_by_role("button", name="Cancel").click()
        async with asyncio.timeout(60):
            while True:
                rows = [
                    row
                    for row in await asyncio.to_thread(farlab.farlab, "sessions")
                    if row["user"] == "ben" and row["system"] == "demo-hpc"
                ]
                if rows and rows[-1]["state"] == "ended":
                    break
                await asyncio.sleep(0.2)
        assert rows[-1]["outcome"] == "stopped"


async def test_a_start_that_cannot_be_says_why_on_the_page(farlab: RunningFarlab) -> None:
    async with logged_in(farlab, "ben") as page:
        await page.click("[data-system=demo-hpc]", timeout=10_000)
        await page.fill("input[name=runtime_minutes]", "99999")
        await page.evaluate("HTMLFormElement.prototype.submit.call(document.querySelector('#spawn_form'))")
        await expect(page.locator("body")).to_contain_text("runtime_minutes", timeout=60_000)
        text = await page.inner_text("body")
        assert "Traceback" not in text
        assert "choose between 1 and 1440" in text
