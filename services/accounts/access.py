"""Who may use what, from every source, as one record a user that everyone else reads. Judges no start.

Sources are the users in the configuration and the claims of an identity provider, at sign-in or fetched in between.
The log is the truth: a record counts once `access-changed` has it; the bucket `access` is the read model for the form.
What claims said is kept in the same bucket under `claims.<user>`, so that a restart forgets nobody.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from datetime import datetime

import msgspec
import structlog

from schemas.access import AccessChanged, AccessRecord
from schemas.base import SystemName, UserName
from schemas.subjects import Subjects, slug
from services._runtime.identity import Stamp
from services._runtime.log import Bucket, ConflictError, Log, Recorded, Subscription
from services._runtime.systems import System
from services.accounts.organisations import memberships
from services.accounts.rights.claims import NO_RIGHTS, Rights, rights_in
from services.accounts.rights.tree import accesses, merged
from services.accounts.settings import AccountsSettings, access_record

CLAIMS = "claims."
_log = structlog.get_logger("farlab.accounts")

Watch = Callable[[AccessRecord], None]
"""Called with a user's record when it changed."""


class Learned(msgspec.Struct, frozen=True, kw_only=True):
    """What claims said of a user, as it is kept."""

    user: UserName
    rights: Rights
    at: datetime


class AccessBook:
    """The records of all users."""

    def __init__(
        self,
        *,
        log: Log,
        bucket: Bucket,
        subjects: Subjects,
        stamp: Stamp,
        systems: Mapping[SystemName, System],
        settings: AccountsSettings,
    ) -> None:
        self._log = log
        self._bucket = bucket
        self._subjects = subjects
        self._stamp = stamp
        self._systems = systems
        self._settings = settings
        self._configured = {UserName(user.name): access_record(user) for user in settings.users}
        self._learned: dict[UserName, Learned] = {}
        self._watches: list[Watch] = []
        self.records: dict[UserName, AccessRecord] = {}

    async def start(self) -> Subscription:
        """Reads what is known, follows what others learn, and says what the configuration changed."""
        following = await self._log.follow("ACCESS", [self._subjects.family("access")], self._take)
        for key in await self._bucket.keys():
            if key.startswith(CLAIMS) and (entry := await self._bucket.get(key)) is not None:
                learned = msgspec.json.decode(entry[0], type=Learned)
                self._learned[learned.user] = learned
        for user in {**self._configured, **self._learned, **self.records}:
            await self._say(user, "configuration")
        return following

    def watch(self, watch: Watch) -> None:
        """Calls `watch` for every record that changes from now on."""
        self._watches.append(watch)

    async def learn(self, user: UserName, claims: Mapping[str, object], reason: str) -> None:
        """Takes what an identity provider says of a user. Raises TransientError when the log does not take it."""
        rights = rights_in(claims, self._settings.claims)
        for malformed in rights.malformed:
            _log.warning("a right was skipped", user=user, value=malformed.value, why=malformed.why)
        learned = Learned(user=user, rights=rights, at=self._stamp.now())
        known = self._learned.get(user)
        if known is None or known.rights != rights:
            await self._bucket.put(CLAIMS + slug(user), msgspec.json.encode(learned))
        self._learned[user] = learned
        await self._say(user, reason)

    def known_by_claims(self) -> list[UserName]:
        """Everybody of whom claims ever said something."""
        return list(self._learned)

    def rights(self, user: UserName) -> Rights:
        """What claims last said of a user."""
        learned = self._learned.get(user)
        return learned.rights if learned is not None else NO_RIGHTS

    def record_now(self, user: UserName) -> AccessRecord:
        """The record that the sources make."""
        configured, rights = self._configured.get(user), self.rights(user)
        organisations = memberships(user, rights.groups, self._settings.organisations)
        names = [each.name for each in organisations]
        if configured is not None:
            names += [name for name in configured.vos if name not in names]
        granted = accesses(sorted(rights.grants), rights.site_identity, self._systems)
        systems = merged([configured.systems if configured is not None else [], granted])
        return AccessRecord(user=user, vos=names, systems=systems, organisations=organisations)

    async def _say(self, user: UserName, reason: str) -> None:
        """Appends the record where it differs from the log's, and keeps the read model equal to it."""
        record = self.record_now(user)
        subject = self._subjects.access_changed(user)
        while self.records.get(user) != record:
            history = await self._log.history("ACCESS", subject)
            after = history[-1].sequence if history else 0
            if _last(history) == record:
                self.records[user] = record
                break
            changed = self._stamp(AccessChanged(user=user, record=record, reason=reason), after=after, cause=None)
            try:
                sequence = await self._log.append("ACCESS", subject, changed, scope=subject, after=after)
            except ConflictError:
                await asyncio.sleep(0)  # another replica spoke; what it said is read next
                continue
            self._take(Recorded(sequence, changed))
        value = msgspec.json.encode(record)
        entry = await self._bucket.get(slug(user))
        if entry is None or entry[0] != value:
            await self._bucket.put(slug(user), value)

    def _take(self, recorded: Recorded) -> None:
        event = recorded.message
        if isinstance(event, AccessChanged) and self.records.get(event.user) != event.record:
            self.records[event.user] = event.record
            for watch in self._watches:
                watch(event.record)


def _last(history: list[Recorded]) -> AccessRecord | None:
    changes = [each.message.record for each in history if isinstance(each.message, AccessChanged)]
    return changes[-1] if changes else None
