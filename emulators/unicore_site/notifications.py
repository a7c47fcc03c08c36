"""Tells a job's notification URL of its changes: one attempt, signed by the server, as UNICORE/X does."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import aiohttp
import jwt

from emulators.unicore_site.descriptions import Notifications
from emulators.unicore_site.jobs import Job
from emulators.unicore_site.store import Change

SECONDS = 30.0
USUAL = ["RUNNING", "SUCCESSFUL", "FAILED"]


class Notifier:
    """Sends notifications in the background, those of a job one after the other.

    `loses` says whether the next one gets lost on its way; `kept` hears of a job whose log has a new line.
    """

    def __init__(self, server_dn: str, key: bytes, *, loses: Callable[[], bool], kept: Callable[[Job], None]) -> None:
        self._server_dn = server_dn
        self._key = key
        self._loses = loses
        self._kept = kept
        self._last: dict[str, asyncio.Task[None]] = {}

    def tell(self, job: Job, change: Change, href: str) -> None:
        """Notifies of the job's status as it is now, where its description asks for it."""
        wanted = job.asks.notifies
        body = message(job, change, wanted)
        if not wanted.url or body is None or self._loses():
            return
        task = asyncio.create_task(self._send(job, wanted.url, {"href": href, **body}, self._last.get(job.id)))
        self._last[job.id] = task
        task.add_done_callback(lambda done: self._over(job.id, done))

    async def close(self) -> None:
        """Gives up what is on its way."""
        tasks = list(self._last.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _over(self, job: str, task: asyncio.Task[None]) -> None:
        if self._last.get(job) is task:
            del self._last[job]

    async def _send(self, job: Job, url: str, body: dict[str, str], before: asyncio.Task[None] | None) -> None:
        if before is not None:
            await asyncio.wait([before])
        headers = {"Authorization": f"Bearer {self._token(job.owner)}"}
        try:
            async with (
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=SECONDS)) as session,
                session.post(url, json=body, headers=headers, ssl=False) as answer,
            ):
                job.note(f"Notified <{url}>" if answer.ok else f"Could not notify <{url}>: HTTP {answer.status}")
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            job.note(f"Could not notify <{url}>: {type(error).__name__}")
        self._kept(job)

    def _token(self, subject: str) -> str:
        now = datetime.now(UTC)
        claims = {
            "iss": self._server_dn,
            "sub": subject,
            "etd": "true",
            "iat": now,
            "exp": now + timedelta(seconds=300),
        }
        return jwt.encode(claims, self._key, algorithm="ES256")


def message(job: Job, change: Change, wanted: Notifications) -> dict[str, str] | None:
    """What is told of a change, or None. UNICORE/X knows no `DONE` among the statuses that a job may name."""
    if change == "bss_status":
        told = any(_matches(pattern, job.bss_status) for pattern in wanted.bss_status)
        return {"bssStatus": job.bss_status} if told else None
    if job.status not in (USUAL if wanted.status is None else wanted.status):
        return None
    exit_code = {"exitCode": str(job.exit_code)} if job.exit_code is not None else {}
    return {
        "status": job.status,
        "statusMessage": job.status_message,
        "batchSystemID": job.batch_id,
        **exit_code,
    }


def _matches(pattern: str, status: str) -> bool:
    try:
        return re.fullmatch(pattern, status) is not None
    except re.error:
        return False
