"""Calls of the forced command on a Slurm site's login nodes, as the user, by SSH. Knows no jobs; opens no shell."""

from __future__ import annotations

import asyncio
import re
from time import monotonic
from typing import Any

import asyncssh
import msgspec

from services._runtime.errors import PermanentError, TransientError
from services._runtime.systems import SlurmSite
from services.hpc_launcher.limits import Breaker, Limiter
from services.hpc_launcher.login_nodes import SILENT, LoginNodes, NodesAwayError

_ACCOUNT = re.compile(r"[a-z_][a-z0-9_.-]{0,31}")
_AWAY = {
    "scheduler-away": "its Slurm controller does not answer",
    "authentication": "Slurm on its login node is not trusted (munge)",
    "unreadable": "Slurm answered with something else than JSON",
    "no-slurm": "Slurm's commands are missing on its login node",
}


class NoSuchJobError(Exception):
    """Slurm answers and knows no such job."""


def checked_account(account: str, title: str) -> None:
    """Raises PermanentError unless this may be the name of a user's account."""
    if not _ACCOUNT.fullmatch(account) or account == "root":
        raise PermanentError("bad-account", f"{account!r} is no user's account at {title}.", _ASK)


def refused_by_slurm(title: str, reason: str) -> PermanentError:
    """The error for a job that Slurm will not take, in its own words."""
    return PermanentError(
        "refused-by-slurm",
        f"Slurm at {title} refused the job: {reason}",
        "Ask for less time or fewer nodes, choose another project or partition, or ask the site.",
    )


class SlurmShell:
    """The command on whichever login node answers.

    Raises TransientError, PermanentError and NoSuchJobError.
    """

    def __init__(self, title: str, site: SlurmSite) -> None:
        """Raises ConfigurationError when the key or the known hosts cannot be read."""
        self._title = title
        self._site = site
        self._nodes = LoginNodes(site)
        self._limiter = Limiter(per_second=site.requests_per_second, at_once=site.concurrent_requests, clock=monotonic)
        self._breaker = Breaker(monotonic)

    async def call(self, account: str, verb: str, /, **words: Any) -> dict[str, Any]:
        """The answer to a request, made as this account."""
        checked_account(account, self._title)
        if closed := self._breaker.closed_seconds():
            raise TransientError(f"{self._title}: {self._breaker.reason}", closed)
        self._breaker.begin()
        try:
            async with self._limiter.turn(), asyncio.timeout(self._site.timeout_seconds):
                said = await self._nodes.ask(account, msgspec.json.encode({"verb": verb, **words}))
        except asyncssh.PermissionDenied:
            self._breaker.succeeded()  # the node lives: what it refuses to one account says nothing of the others
            raise TransientError(f"{self._title} does not let this service act as {account}") from None
        except NodesAwayError as away:
            self._breaker.abandoned()  # the nodes' own memory refuses what would only wait
            raise TransientError(f"{self._title}: {away}", away.seconds) from None
        except asyncssh.HostKeyNotVerifiable:
            return self._failed("its login node's host key is not the pinned one")
        except TimeoutError:
            return self._failed(f"its login node did not answer in {self._site.timeout_seconds:g} s")
        except (OSError, asyncssh.Error) as error:
            return self._failed(f"its login node is away ({type(error).__name__})")
        except BaseException:
            self._breaker.abandoned()
            raise
        return self._judged(said)

    def troubles(self) -> list[str]:
        """Why the site cannot be used right now."""
        if self._nodes.away_seconds():
            return [f"{self._title}: {SILENT}"]
        return [f"{self._title}: {self._breaker.reason}"] if self._breaker.is_open else []

    async def close(self) -> None:
        """Ends all connections."""
        await self._nodes.close()

    def _failed(self, reason: str) -> dict[str, Any]:
        self._breaker.failed(reason)
        raise TransientError(f"{self._title}: {reason}")

    def _judged(self, said: bytes) -> dict[str, Any]:
        try:
            answer = msgspec.json.decode(said, type=dict[str, Any])
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return self._failed("the forced command did not answer with JSON; does a login script print something?")
        code, reason = str(answer.get("error", "")), str(answer.get("reason", ""))[:500]
        if code in _AWAY:
            return self._failed(f"{_AWAY[code]}: {reason}")
        self._breaker.succeeded()
        match code:
            case "":
                return answer
            case "no-such-job":
                raise NoSuchJobError(reason)
            case "refused":
                raise refused_by_slurm(self._title, reason)
            case "disk-full":
                raise PermanentError(
                    "disk-full",
                    f"Your home directory at {self._title} is full: {reason}",
                    "Remove files you no longer need there, then start the server again.",
                )
            case _:
                raise PermanentError("login-node", f"The login node of {self._title} refused: {reason}", _ASK)


_ASK = "Ask the operator of this service."
