"""The installation that sessions are replayed into: found, checked to be one for trying, spoken to. Decides nothing.

It is written to as `operator-cli`, which only an installation marked as a sandbox lets speak for the hub `replay`.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from schemas.base import EventId, HubName, SessionId
from schemas.lifecycle import IllegalEventError, SessionState, evolve
from schemas.secrets import HmacProof, JobSecrets
from schemas.session import SessionEvent
from services._runtime.configuration import ConfigurationError
from services._runtime.connection import Broker
from services._runtime.errors import TransientError
from services._runtime.identity import Stamp
from services._runtime.lag import lags
from services._runtime.log import ConflictError, Log, Recorded, Subscription
from services._runtime.service import stamp_of, utc_now, vault_of
from services._runtime.settings import Configuration, Nats, Shared, load
from services._runtime.vault import Vault
from services._runtime.view import NOTHING, Placed, SessionView, as_session_event
from services.operator_cli.sandbox.mapping import DECIDING, REPLAY_HUB

LAUNCHERS = ("hpc-launcher", "cloud-launcher")
CLIENT = "jupyterhub-user-replay"


def target_at(into: str) -> Configuration:
    """The configuration of a target: that in a `farlab.toml`, or no more than the address of a broker.

    Raises ConfigurationError, also for an installation that is not marked as a sandbox.
    """
    if "://" in into:
        try:
            nats = msgspec.convert({"servers": [into]}, Nats)
        except msgspec.ValidationError:
            raise ConfigurationError(
                f"--into {into.rpartition('@')[2]}: not the address of a broker; write nats://HOST:PORT, or name the "
                "sandbox's farlab.toml"
            ) from None
        return Configuration(file=Path("farlab.toml"), shared=Shared(nats=nats), systems={}, sections={})
    found = load(Path(into))
    if not found.shared.installation.sandbox:
        raise ConfigurationError(
            f"--into {into}: not a sandbox, and replayed sessions start jobs; if it is one for trying, write "
            "`sandbox = true` under [installation] and start it anew"
        )
    return found


class Target:
    """A target that is open. Its view holds the sessions that were ever replayed into it."""

    def __init__(self, configuration: Configuration, broker: Broker) -> None:
        named = bool(configuration.catalogue)
        self.subjects = configuration.subjects
        self.log: Log = broker.log
        self.vault: Vault | None = vault_of(configuration, broker, "operator-cli") if named else None
        self._broker = broker
        self._prefix = configuration.shared.installation.prefix
        self._stamp = stamp_of(configuration, "operator-cli") if named else None
        self._key = secrets.token_bytes(32)
        self._view = SessionView()
        self._following: Subscription | None = None
        self._moved: dict[SessionId, asyncio.Event] = {}

    def stamp(self, source: str) -> Stamp:
        """Gives events their ids as of a source, under the operator's key where the target has one."""
        if self._stamp is None:
            return Stamp(f"{self._prefix}/{source}", self._key, utc_now)
        return self._stamp.of(f"{self._prefix}/{source}")

    async def open(self) -> None:
        """Begins to follow what is replayed."""
        self._view.watch(self._note)
        self._following = await self._view.follow(self.log, [self.subjects.sessions(hub=REPLAY_HUB)])

    async def close(self) -> None:
        """Stops following."""
        if self._following is not None:
            await self._following.close()

    async def check(self, own: set[EventId], beside: Sequence[str], *, answering: bool) -> None:
        """Raises ConfigurationError where this is no place to replay into.

        `own` are the ids of the first events of what shall be replayed, `beside` the hubs whose sessions may be there,
        `answering` is whether services shall be running, or none.
        """
        hubs: set[HubName] = set()
        came_from: list[SessionId] = []

        def look(recorded: Recorded) -> None:
            if isinstance(event := recorded.message, SessionEvent):
                hubs.add(event.hub)
                if event.id in own:
                    came_from.append(event.session)

        following = await self.log.follow("SESSIONS", [self.subjects.sessions()], look)
        await following.close()
        if came_from:
            raise ConfigurationError(
                f"the target holds {came_from[0]} itself: it is the log it comes from; name another"
            )
        if strangers := sorted(hubs - {REPLAY_HUB, *map(HubName, beside)}):
            named = " ".join(f"--beside {each}" for each in strangers)
            raise ConfigurationError(
                f"the target holds sessions of {', '.join(strangers)}: is it in use? If it is meant, add {named}"
            )
        running = [each.service for each in await lags(self._broker.log, DECIDING) if each.bound]
        if answering and "accounts" not in running:
            raise ConfigurationError(
                "no service of the target is running, so nobody would answer; start it, or put the events there as "
                "they were with --as-recorded"
            )
        if running and not answering:
            raise ConfigurationError(
                f"{', '.join(running)} of the target would answer what is put there; stop it, or omit --as-recorded"
            )

    def here(self, session: SessionId) -> Placed:
        """Where a session stands in the target."""
        return self._view.get(session) or NOTHING

    async def say(self, event: SessionEvent, source: str) -> bool:
        """Appends an event of a source where its session now stands; False where that state refuses it."""
        while True:
            here = self.here(event.session)
            try:
                evolve(here.state, as_session_event(event))
            except IllegalEventError:
                return False
            try:
                await self.append(self.stamp(source)(event, after=here.sequence, cause=None), here.sequence)
            except ConflictError as conflict:
                for recorded in conflict.history:
                    self._view.learn(recorded)
                continue
            return True

    async def append(self, event: SessionEvent, after: int) -> int:
        """Appends a stamped event. Raises ConflictError when the session moved on, TransientError when refused."""
        try:
            sequence = await self.log.append(
                "SESSIONS",
                self.subjects.session_event(event),
                event,
                scope=self.subjects.session(event.session),
                after=after,
            )
        except TransientError as error:
            raise TransientError(
                f"{error}; may operator-cli speak for the hub {REPLAY_HUB} there (sandbox = true in [installation])?"
            ) from None
        self._view.learn(Recorded(sequence, event))
        return sequence

    async def until(self, session: SessionId, wanted: Callable[[SessionState], bool], seconds: float) -> bool:
        """Waits until a session's state is wanted; False when it takes too long."""
        moved = self._moved.setdefault(session, asyncio.Event())
        try:
            async with asyncio.timeout(seconds):
                while not wanted(self.here(session).state):
                    moved.clear()
                    await moved.wait()
        except TimeoutError:
            return False
        return True

    async def seal(self, session: SessionId, user: str, base_url: str) -> None:
        """Seals made-up secrets for a session, so that its job can start: none that was ever anybody's."""
        if self.vault is None:
            return
        key, token = secrets.token_hex(32), secrets.token_hex(16)
        environment = {
            "JUPYTERHUB_API_TOKEN": token,
            "JUPYTERHUB_API_URL": "http://127.0.0.1:8081/hub/api",
            "JUPYTERHUB_CLIENT_ID": CLIENT,
            "JUPYTERHUB_USER": user,
            "JUPYTERHUB_SERVICE_PREFIX": base_url,
            "JUPYTERHUB_BASE_URL": "/",
        }
        for launcher in LAUNCHERS:
            await self.vault.put(session, launcher, JobSecrets(environment=environment, proof_key=key))
        await self.vault.put(session, "tunneler", HmacProof(key=key))

    async def forget(self, session: SessionId) -> None:
        """Deletes a session's made-up secrets."""
        if self.vault is not None:
            await self.vault.forget(session)

    def _note(self, recorded: Recorded, _before: SessionState, _after: SessionState) -> None:
        if isinstance(event := recorded.message, SessionEvent) and (moved := self._moved.get(event.session)):
            moved.set()
