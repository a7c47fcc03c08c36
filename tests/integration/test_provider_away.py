"""The identity provider hangs while a server starts and runs: it starts, is used and stops, and users stay in."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import aiohttp
import pytest

from services.operator_cli.probe import Hub
from services.operator_cli.web_sign_in import WebSignIn
from tests.support.running import running_farlab

pytestmark = [pytest.mark.timeout(240), pytest.mark.xdist_group("farlab-up")]
OPTIONS = {
    "system": "demo-hpc",
    "account": "lovelace1",
    "project": "zbridge",
    "partition": "devel",
    "runtime_minutes": 10,
}


async def test_a_provider_that_hangs_strands_nobody(tmp_path: Path) -> None:
    with running_farlab(tmp_path) as farlab:
        async with (
            aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as browser,
            aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as http,
        ):
            await WebSignIn(farlab.url, browser).enter("ada", farlab.password)
            hub = Hub(farlab.url, farlab.token, http)
            await hub.call("POST", "hub/api/users/ada/servers/one", {"user_options": OPTIONS}, (201, 202))
            provider = farlab.pid_of("emulators.identity_provider")
            os.kill(provider, signal.SIGSTOP)
            try:
                async with asyncio.timeout(120):
                    while not ((await _servers(hub)).get("one") or {}).get("ready"):
                        await asyncio.sleep(0.2)
                assert (await hub.call("GET", "user/ada/one/api/status"))["kernels"] == 0
                async with browser.get(f"{farlab.url}hub/home") as page:
                    assert page.url.path == "/hub/home"
                await hub.call("DELETE", "hub/api/users/ada/servers/one", None, (202, 204))
                async with asyncio.timeout(60):
                    while (await _servers(hub)).get("one", {}).get("ready"):
                        await asyncio.sleep(0.2)
                rows = await asyncio.to_thread(farlab.farlab, "sessions")
                assert [row["outcome"] for row in rows] == ["stopped"]
            finally:
                os.kill(provider, signal.SIGCONT)
            await WebSignIn(farlab.url, browser).leave()


async def _servers(hub: Hub) -> dict[str, dict[str, object]]:
    model = await hub.call("GET", "hub/api/users/ada")
    servers: dict[str, dict[str, object]] = model.get("servers") or {}
    return servers
