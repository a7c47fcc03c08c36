"""Readiness probes of containers: over HTTP and TCP, as a kubelet asks. It ends and restarts nothing."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp

Probe = dict[str, Any]


async def until_ready(probe: Probe | None, address: str) -> None:
    """Returns when the probe succeeds for the first time; at once without one. Ends by cancel."""
    if not probe:
        return
    await asyncio.sleep(float(probe.get("initialDelaySeconds", 0)))
    while not await succeeds(probe, address):
        await asyncio.sleep(min(float(probe.get("periodSeconds", 10)), 0.2))


async def succeeds(probe: Probe, address: str) -> bool:
    """Whether one attempt succeeds: any answer from 200 to 399, or an accepted connection."""
    timeout = float(probe.get("timeoutSeconds", 1))
    try:
        if told := probe.get("httpGet"):
            scheme, path = told.get("scheme", "HTTP").lower(), told.get("path", "/")
            url = f"{scheme}://{told.get('host') or address}:{told['port']}{path}"
            limit = aiohttp.ClientTimeout(total=timeout)
            async with aiohttp.ClientSession(timeout=limit) as http, http.get(url, ssl=False) as answer:
                return 200 <= answer.status < 400
        async with asyncio.timeout(timeout):
            _, writer = await asyncio.open_connection(address, int(probe["tcpSocket"]["port"]))
        writer.close()
    except (aiohttp.ClientError, OSError, TimeoutError):
        return False
    return True
