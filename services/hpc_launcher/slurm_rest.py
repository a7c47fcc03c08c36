"""A Slurm site whose jobs are made, followed and ended over HTTP; their files still go by the forced command.

Takes the place of `SlurmShell` before the same adapter. Sends slurmrestd nothing secret but the token: what a job is
made of anybody at the site may read.
"""

from __future__ import annotations

import contextlib
from typing import Any

from services._runtime.errors import PermanentError, TransientError
from services.hpc_launcher import slurm_documents as documents
from services.hpc_launcher.slurm_shell import NoSuchJobError, SlurmShell
from services.hpc_launcher.slurmrestd import NeverArrivedError, Slurmrestd

MARK = "farlab-installation-"


class SlurmRestCalls:
    """The calls of `SlurmShell`. Raises what it raises."""

    def __init__(self, title: str, shell: SlurmShell, slurmrestd: Slurmrestd) -> None:
        self._title = title
        self._shell = shell
        self._slurmrestd = slurmrestd

    async def call(self, account: str, verb: str, /, **words: Any) -> dict[str, Any]:
        """The answer to a request, made as this account."""
        match verb:
            case "queue":
                said = await self._slurmrestd.ask(account, "GET", "/jobs")
                return {"jobs": documents.listed(said.jobs, MARK)}
            case "create":
                return await self._create(account, words)
            case "start":
                if not await self._ours(account, words):
                    raise NoSuchJobError("Slurm knows no such job")
                await self._slurmrestd.ask(account, "POST", f"/job/{words['job']}", documents.RELEASE)
                return {}
            case "abort":
                await self._abort(account, words)
                return {}
            case "delete":
                await self._abort(account, words)
                return await self._shell.call(account, "remove", folder=words["folder"])
            case "version":
                # Newer ones answer /ping to anybody, and while the controller is away.
                await self._slurmrestd.ask(account, "GET", "/partitions")
                return await self._shell.call(account, "version", slurm=False)
            case _:
                return await self._shell.call(account, verb, **words)

    def troubles(self) -> list[str]:
        """Why the site cannot be used right now."""
        return [*self._slurmrestd.troubles(), *self._shell.troubles()]

    async def close(self) -> None:
        """Ends all connections."""
        await self._slurmrestd.close()
        await self._shell.close()

    async def _create(self, account: str, words: dict[str, Any]) -> dict[str, Any]:
        made = await self._prepare(account, words)
        folder, path = str(made["folder"]), str(made["path"])

        def document(version: str) -> dict[str, Any]:
            return documents.submission(version, words, folder, path)

        try:
            said = await self._slurmrestd.ask(account, "POST", "/job/submit", document)
        except (NeverArrivedError, PermanentError):
            # After any other error the job may exist: its folder stays, for find and delete.
            with contextlib.suppress(TransientError, PermanentError):
                await self._shell.call(account, "remove", folder=folder)
            raise
        if not said.job_id:
            raise TransientError(f"{self._title}: slurmrestd answered with no number of a job")
        return {"job": str(said.job_id), "folder": folder}

    async def _prepare(self, account: str, words: dict[str, Any]) -> dict[str, Any]:
        try:
            return await self._shell.call(account, "prepare", session=words["session"], files=words["files"])
        except PermanentError as error:
            if "the verb is none of" not in error.reason:
                raise
            raise PermanentError(
                "old-forced-command",
                f"The program farlab-slurm on the login node of {self._title} is too old for [site.rest].",
                "An operator should install there the one of this release.",
            ) from None

    async def _abort(self, account: str, words: dict[str, Any]) -> None:
        try:
            if await self._ours(account, words):
                await self._slurmrestd.ask(account, "DELETE", f"/job/{words['job']}")
        except NoSuchJobError:
            return

    async def _ours(self, account: str, words: dict[str, Any]) -> bool:
        """Whether Slurm knows the job and it is the one with this folder: numbers come round again."""
        try:
            said = await self._slurmrestd.ask(account, "GET", f"/job/{words['job']}")
        except NoSuchJobError:
            return False
        return any(job.words[-1:] == [words["folder"]] and job.user_name == account for job in said.jobs)
