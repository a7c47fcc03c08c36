"""Users who start, use and stop servers at once, whatever dies meanwhile, and who look whose server answers them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import Any

import aiohttp

from services.operator_cli.probe import TROUBLE, Hub, RefusedError
from tests.kill.installation import Installation

ACCOUNTS = {"ada": "lovelace1", "ben": "johnson1"}
LOOK_SECONDS = 0.4


class Users:
    """All the servers of a test, and what their users saw."""

    def __init__(self, farlab: Installation, servers: Sequence[tuple[str, str]], http: aiohttp.ClientSession) -> None:
        self.hub = Hub(farlab.url, farlab.token, http)
        self.servers = servers
        self.starts = self.stops = self.visits = self.refused = 0
        self.crossed: list[str] = []
        self.seen: dict[tuple[str, str], dict[str, Any]] = {}
        self.looked = 0
        self._news = asyncio.Condition()

    async def look(self) -> None:
        """Follows the hub's list of servers, for all. Ends by cancel."""
        while True:
            seen: dict[tuple[str, str], dict[str, Any]] = {}
            try:
                for user in ACCOUNTS:
                    told = (await self.hub.call("GET", f"hub/api/users/{user}")).get("servers") or {}
                    seen |= {(user, name): server for name, server in told.items()}
            except TROUBLE:
                await asyncio.sleep(LOOK_SECONDS)
                continue
            async with self._news:
                self.seen = seen
                self.looked += 1
                self._news.notify_all()
            await asyncio.sleep(LOOK_SECONDS)

    async def _until(self, server: tuple[str, str], ready: bool) -> bool:
        """Waits until a server is ready, or gone. False: it is gone although it should become ready."""
        async with self._news:
            since = self.looked
            while True:
                await self._news.wait()
                now = self.seen.get(server)
                if ready and now is not None and now["ready"]:
                    return True
                if now is None and self.looked > since + 1:
                    return not ready

    async def live(self, server: tuple[str, str], chaos_over: asyncio.Event) -> None:
        """One server, started, visited and stopped until the chaos is over; stopped at the end."""
        user, name = server
        while not chaos_over.is_set():
            await self._start(user, name)
            if await self._until(server, ready=True):
                await self._visit(user, name)
                await asyncio.sleep(random.random() * 2)
                await self._visit(user, name)
            await self._stop(user, name)
            await self._until(server, ready=False)

    async def _start(self, user: str, name: str) -> None:
        options = {
            "system": "demo-hpc",
            "account": ACCOUNTS[user],
            "project": "ztrain",
            "partition": "batch",
            "runtime_minutes": 10,
        }
        path = f"hub/api/users/{user}/servers/{name}"
        while True:
            try:
                await self.hub.call("POST", path, {"user_options": options}, (201, 202, 400))
            except RefusedError:
                self.refused += 1
            except TROUBLE:
                pass
            else:
                self.starts += 1
                return
            await asyncio.sleep(0.5)

    async def _stop(self, user: str, name: str) -> None:
        while True:
            try:
                await self.hub.call("DELETE", f"hub/api/users/{user}/servers/{name}", None, (202, 204, 404))
            except TROUBLE:  # 400: still pending
                await asyncio.sleep(0.5)
            else:
                self.stops += 1
                return

    async def _visit(self, user: str, name: str) -> None:
        """Goes in through the proxy: nobody may come out at another's server."""
        try:
            said = await self.hub.call("GET", f"user/{user}/{name}/whoami")
        except TROUBLE:
            return
        if isinstance(said, dict) and "server" in said:
            self.visits += 1
            if said["server"] != f"/user/{user}/{name}/":
                self.crossed.append(f"{user}/{name} came out at {said['server']}")
