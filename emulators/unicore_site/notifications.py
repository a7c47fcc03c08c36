"""Tells a job's notification URL of its changes: one attempt, signed by the server, as UNICORE/X does."""

from __future__ import annotations

import asyncio
import re
from datetime import UTC, datetime, timedelta

import aiohttp
import jwt

from emulators.unicore_site.jobs import Job

SECONDS = 30.0


class Notifier:
    """Sends notifications in the background."""

    def __init__(self, server_dn: str, key: bytes) -> None:
        self._server_dn = server_dn
        self._key = key
        self._tasks: set[asyncio.Task[None]] = set()

    def tell(self, job: Job, href: str) -> None:
        """Notifies of the job's status as it is now, where its description asks for it."""
        url, statuses, patterns = wanted(job)
        if not url:
            return
        body: dict[str, str] = {"href": href}
        if job.status in statuses and job.bss_status != "CONFIGURING":
            body |= {"status": job.status, "statusMessage": job.status_message, "batchSystemID": job.batch_id}
            if job.exit_code is not None:
                body["exitCode"] = str(job.exit_code)
        elif any(re.fullmatch(pattern, job.bss_status) for pattern in patterns):
            body["bssStatus"] = job.bss_status
        else:
            return
        now = datetime.now(UTC)
        claims = {
            "iss": self._server_dn,
            "sub": job.owner,
            "etd": "true",
            "iat": now,
            "exp": now + timedelta(seconds=300),
        }
        token = jwt.encode(claims, self._key, algorithm="ES256")
        task = asyncio.create_task(self._send(job, url, body, token))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Gives up what is on its way."""
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(list(self._tasks))

    async def _send(self, job: Job, url: str, body: dict[str, str], token: str) -> None:
        try:
            async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=SECONDS)) as session:
                headers = {"Authorization": f"Bearer {token}"}
                async with session.post(url, json=body, headers=headers, ssl=False) as answer:
                    job.log = [*job.log, f"Notification: {answer.status}"]
        except (aiohttp.ClientError, TimeoutError) as error:
            job.log = [*job.log, f"Notification failed: {error!r}"]


def wanted(job: Job) -> tuple[str, list[str], list[str]]:
    """Where a job wants notifications, for which statuses, and for which patterns of the batch system's status."""
    settings = job.description.get("NotificationSettings")
    if isinstance(settings, dict):
        statuses = settings.get("status") or ["RUNNING", "DONE"]
        patterns = [str(each) for each in settings.get("bssStatus", [])]
        url = str(settings.get("URL", ""))
    else:
        statuses, patterns, url = ["RUNNING", "DONE"], [], str(job.description.get("Notification", ""))
    expanded = [one for each in statuses for one in (("SUCCESSFUL", "FAILED") if each == "DONE" else (str(each),))]
    return url, expanded, patterns
